"""The landscape: what a prompt is worth on an item, and the best that any prompt can reach.

An instance is drawn from its number and from what the task looks like (answer form, columns, labels), never from the
order or the number of the rows. `Landscape` holds weights and items and turns a prompt's text into chances;
`true_score`, `oracle` and `regret` are for tests and scoreboards.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from utils.llm.simulated.demos import DemoFinder, without
from utils.llm.simulated.draws import Stream, digest, normal, pick_weighted, uniforms
from utils.llm.simulated.features import Features, read_instructions
from utils.llm.simulated.lexicon import SKILLS, Cue, Form, Skill
from utils.llm.simulated.settings import Settings
from utils.prompt import Prompt
from utils.records import Example, Message

L0 = 250  # tokens of instructions that cost nothing
SHORT_WORDS = 12  # a longer free answer is a summary
OTHER_SKILL = 0.35  # what a demo of another skill is worth, beside 1 for the same
WRONG_DEMO = -1.0  # what a demo with a wrong answer is worth
DEMO_NOISE = 0.4  # of the noise of a wording, for each set and order of demos
MAX_DEMOS = 8  # the oracle shows no more
FORM_DEMOS = 3  # so many show the form of an answer as well as more would
FEW = 12  # characters; a shorter value is taken out only where it stands last, as a word
_CACHED = 1024  # prompts whose reading is kept

_NUMERIC = re.compile(r"^[-+]?\$?[\d,]*\.?\d+%?$")
_HASHED = re.compile(r"####\s*([-+]?[\d,]*\.?\d+)\s*$")


@dataclass(frozen=True)
class Weights:
    """What each feature adds to the quality of a prompt, in logits, and to the chance of a good form."""

    task: float = 1.0
    cot: float = 1.65  # times m_task, which differs by instance and can be negative
    verify: float = 0.3
    role: float = 0.15
    concise: float = -0.12
    rules: tuple[float, ...] = ()  # of each skill, times `own` or `other`
    own: float = 2.2 * 0.45
    other: float = -0.08 * 0.45
    demos: float = 0.9
    contradiction: float = 1.2
    gibberish: float = 3.5
    length: float = 0.15
    form: float = -2.2
    form_instruction: float = 4.2
    form_demo: float = 0.8  # for each of the first FORM_DEMOS demos
    form_contradiction: float = 1.5
    form_gibberish: float = 2.0


@dataclass(frozen=True)
class Item:
    """An example as the landscape sees it."""

    id: str
    form: Form
    gold: str
    options: tuple[str, ...]  # the answers that can be given; empty for free answers
    difficulty: float  # b
    discrimination: float  # a
    skill: int
    guess: float  # c
    worth: float  # as a demo
    wrong: tuple[str, ...]  # distractors
    wrong_weights: tuple[float, ...]
    values: tuple[tuple[str, str], ...]  # (placeholder, text), longest text first
    longest: str


@dataclass(frozen=True)
class View:
    """What a prompt's text comes down to."""

    digest: str  # names the normalised text
    features: Features
    demos: int
    quality: tuple[float, ...]  # by skill of the item, text noise included
    p_form: float


class Landscape:
    """One instance: weights, skills and items."""

    def __init__(self, examples: Sequence[Example], settings: Settings, model: str) -> None:
        self.settings = settings
        self.model = f"{model}/{settings.instance}"
        self.form = _usual_form(examples)
        self.labels = _labels(examples)
        columns = sorted({column for example in examples for column in example.inputs})
        self.key = digest("landscape", str(settings.instance), self.form, *columns, *self.labels)
        stream = Stream("weights", self.key)
        self.skills = _draw_skills(stream, settings.K)
        self.shares = _shares(stream, len(self.skills))
        self.weights = _draw_weights(stream, len(self.skills), settings.null)
        numbers = [example.target for example in examples if not example.choices]
        self.items = {example.id: self._item(example, numbers) for example in examples}
        self._finder = DemoFinder(examples, {e.id: (e.target, self.items[e.id].gold) for e in examples})
        self._views: dict[str, View] = {}

    def recover(self, messages: Sequence[Message], item: Item) -> tuple[str, bool]:
        """The prompt's text with the item's values turned back into placeholders; False if none was shown."""
        *before, last = [message.content for message in messages]
        shown = not item.values
        for placeholder, value in item.values:
            if len(value) >= FEW:
                if value in last:
                    last = last.replace(value, placeholder)
                    shown = True
                    continue
            elif (at := _last_word(last, value)) >= 0:
                last = last[:at] + placeholder + last[at + len(value) :]
                shown = True
                continue
            # the input may stand in an earlier message; a demo that holds the same text is left alone
            for i, text in enumerate(before):
                if len(value) >= FEW and value in text:
                    before[i] = text.replace(value, placeholder)
                    shown = True
        return "\n\n".join([*before, last]), shown

    def view(self, text: str) -> View:
        """The reading of a prompt's text (inputs taken out); remembered."""
        known = self._views.get(text)
        if known is None:
            if len(self._views) >= _CACHED:
                del self._views[next(iter(self._views))]
            known = self._views[text] = self._read(text)
        return known

    def p_right(self, view: View, item: Item, deviate: float, temperature: float = 0.0) -> float:
        """The chance of the right answer; `deviate` is the standard normal draw of this text and item."""
        ability = self.settings.theta + view.quality[item.skill] + self.settings.item_noise * deviate
        slope = item.discrimination / (1 + temperature / 2)
        return item.guess + (1 - item.guess) * _sigmoid(slope * (ability - item.difficulty))

    def draws(self, view: View, item: Item) -> tuple[float, ...]:
        """The draws of this text and item; the first decides the item's noise."""
        return uniforms(self.model, view.digest, item.id)

    def p_form(self, features: Features, demos: int) -> float:
        """The chance that an answer has the form that is asked for."""
        w = self.weights
        return _sigmoid(
            w.form
            + w.form_instruction * features.format
            + w.form_demo * min(demos, FORM_DEMOS)
            - w.form_contradiction * features.contradiction
            - w.form_gibberish * features.gibberish
        )

    def quality(self, features: Features, skill: int, demos: int = 0, relevance: float = 0.0) -> float:
        """What a prompt adds to the ability on items of a skill, without any noise."""
        w = self.weights
        rules = sum(
            w.rules[k] * (w.own if k == skill else w.other)
            for k, other in enumerate(self.skills)
            if other.name in features.skills
        )
        return (
            w.task * (Cue.TASK in features.cues)
            + w.cot * (Cue.COT in features.cues)
            + w.verify * (Cue.VERIFY in features.cues)
            + w.role * (Cue.ROLE in features.cues)
            + w.concise * (Cue.CONCISE in features.cues)
            + rules
            + w.demos * (1 - math.exp(-demos / 2)) * relevance
            - w.contradiction * features.contradiction
            - w.gibberish * features.gibberish
            - w.length * max(0.0, features.tokens / L0 - 1)
        )

    def relevance(self, demos: Iterable[tuple[Item, bool]], skill: int) -> float:
        """How much these demos (item, answer right) have to say about items of a skill: a mean, so it is additive."""
        shown = list(demos)
        if not shown:
            return 0.0
        worth = (
            item.worth * (1.0 if item.skill == skill else OTHER_SKILL) if right else WRONG_DEMO for item, right in shown
        )
        return sum(worth) / len(shown)

    def _read(self, text: str) -> View:
        found = self._finder.find(text)
        instructions = without(text, found)
        features = read_instructions(instructions, self.form, self.labels)
        name = _name(text)
        noise = self.settings.noise * normal(uniforms(self.model, _name(instructions))[0])
        if found:  # the choice of demos is rugged as well, but less than their worth
            noise += DEMO_NOISE * self.settings.noise * normal(uniforms(self.model, name, "demos")[0])
        shown = [(self.items[demo.example_id], demo.correct) for demo in found]
        quality = tuple(
            self.quality(features, k, len(shown), self.relevance(shown, k)) + noise for k in range(len(self.skills))
        )
        return View(name, features, len(shown), quality, self.p_form(features, len(shown)))

    def _item(self, example: Example, targets: Sequence[str]) -> Item:
        draw = uniforms("item", str(self.settings.instance), example.id)
        form = _form_of_choices(example.choices) or self.form
        gold = _number_of(example.target) or example.target if form is Form.NUMBER else example.target
        wrong = _distractors(form, example, gold, targets, draw[4])
        stream = Stream("distractors", example.id, str(self.settings.instance))
        values = sorted(
            ((f"{{{column}}}", text) for column, text in example.inputs.items() if text),
            key=lambda pair: -len(pair[1]),
        )
        return Item(
            id=example.id,
            form=form,
            gold=gold,
            options=example.choices,
            difficulty=1.1 * normal(draw[0]),
            discrimination=math.exp(0.3 * normal(draw[1])),
            skill=pick_weighted(range(len(self.skills)), self.shares, draw[2]),
            guess=1 / len(example.choices) if example.choices else 0.0,
            worth=min(max(0.6 + 1.2 * normal(draw[3]), -1.5), 2.5),
            wrong=wrong,
            wrong_weights=tuple(math.exp(0.8 * normal(stream.uniform())) for _ in wrong),
            values=tuple(values),
            longest=values[0][1] if values else "",
        )


# --------------------------------------------------------------------------- for tests and scoreboards


def true_score(landscape: Landscape, prompt: Prompt, examples: Iterable[Example]) -> float:
    """The expected score of a prompt at temperature 0: the mean chance of a right, well-formed answer. No sampling.

    Text noise is part of it: it belongs to the wording. Where a metric is graded this stands for its upper level.
    """
    chances = []
    for example in examples:
        item = landscape.items[example.id]
        text, shown = landscape.recover(prompt.render(example.inputs), item)
        view = landscape.view(text)
        right = landscape.p_right(view, item, normal(landscape.draws(view, item)[0])) if shown else item.guess
        chances.append(right * view.p_form)
    return math.fsum(chances) / len(chances)


@dataclass(frozen=True)
class Optimum:
    """The best combination of features, and its expected score without text noise."""

    score: float
    cues: frozenset[Cue]
    skills: frozenset[str]
    demos: tuple[str, ...]


def oracle(landscape: Landscape, examples: Sequence[Example], pool: Sequence[Example] = ()) -> Optimum:
    """The best expected score on the examples over all subsets of cues and rules and all numbers of demos of the pool.

    For each number of demos the most relevant on average are shown. Without text noise; a lucky wording can be
    a little better, so a regret can be a little below zero.
    """
    items = [landscape.items[example.id] for example in examples]
    ranked = _by_worth(landscape, items, [landscape.items[example.id] for example in pool])
    useful = frozenset(cue for cue in Cue if getattr(landscape.weights, cue) > 0)  # each shifts all items alike
    best = Optimum(-1.0, frozenset(), frozenset(), ())
    names = [skill.name for skill in landscape.skills]
    for count in range(min(len(ranked), MAX_DEMOS) + 1):
        shown = [(item, True) for item in ranked[:count]]
        relevance = [landscape.relevance(shown, k) for k in range(len(names))]
        for chosen in _subsets(names):
            features = Features(format=True, cues=useful, skills=chosen)
            score = expected(landscape, items, features, count, relevance)
            if score > best.score + 1e-12:
                best = Optimum(score, useful, chosen, tuple(item.id for item in ranked[:count]))
    return best


def expected(
    landscape: Landscape, items: Sequence[Item], features: Features, demos: int = 0, relevance: Sequence[float] = ()
) -> float:
    """The mean chance of a right, well-formed answer for a set of features, without text noise."""
    by_skill = [
        landscape.settings.theta + landscape.quality(features, k, demos, relevance[k] if relevance else 0.0)
        for k in range(len(landscape.skills))
    ]
    right = math.fsum(
        item.guess + (1 - item.guess) * _sigmoid(item.discrimination * (by_skill[item.skill] - item.difficulty))
        for item in items
    )
    return landscape.p_form(features, demos) * right / len(items)


def regret(best: float, seed: float, final: float) -> float:
    """The share of the possible gain that was left: 0 at the optimum, 1 at the seed; NaN if there was none."""
    return (best - final) / (best - seed) if best > seed else math.nan


def _by_worth(landscape: Landscape, items: Sequence[Item], pool: Sequence[Item]) -> list[Item]:
    share = [sum(item.skill == k for item in items) / len(items) for k in range(len(landscape.skills))]
    return sorted(pool, key=lambda item: -item.worth * (share[item.skill] + OTHER_SKILL * (1 - share[item.skill])))


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    if len(names) > 6:  # 2^K is too much; a rule gains far more on its own items than it costs on others
        return [frozenset(names)]
    return [frozenset(c) for n in range(len(names) + 1) for c in itertools.combinations(names, n)]


# --------------------------------------------------------------------------- drawing an instance


def _draw_skills(stream: Stream, count: int) -> tuple[Skill, ...]:
    return tuple(stream.shuffled(SKILLS)[:count])


def _shares(stream: Stream, count: int) -> tuple[float, ...]:
    """How common each skill is: from 1.4 down to 0.6 of an equal share."""
    if count == 1:
        return (1.0,)
    return tuple(stream.shuffled([(1.4 - 0.8 * k / (count - 1)) / count for k in range(count)]))


def _draw_weights(stream: Stream, count: int, null: bool) -> Weights:
    def around(value: float) -> float:
        return value * math.exp(0.12 * normal(stream.uniform()))

    base = Weights()
    m_task = -0.3 if stream.chance(0.15) else around(1.0)  # thinking aloud hurts on some tasks
    drawn = Weights(
        task=around(base.task),
        cot=base.cot * m_task,
        verify=around(base.verify),
        role=around(base.role),
        concise=around(base.concise),
        rules=tuple(around(1.0) for _ in range(count)),
    )
    if not null:
        return drawn
    nothing = {name: 0.0 for name in drawn.__dataclass_fields__ if name != "rules"}
    return Weights(**{**nothing, "form": 3.0}, rules=(0.0,) * count)


# --------------------------------------------------------------------------- examples


def _form_of_choices(choices: Sequence[str]) -> Form | None:
    if not choices:
        return None
    return Form.LETTER if all(len(choice) == 1 and choice.isalnum() for choice in choices) else Form.LABEL


def _usual_form(examples: Sequence[Example]) -> Form:
    """The answer form of a task: of the choices where there are any, else of most targets."""
    for example in examples:
        form = _form_of_choices(example.choices)
        if form:
            return form
    if not examples:
        return Form.SHORT
    if sum(_number_of(example.target) != "" for example in examples) >= 0.8 * len(examples):
        return Form.NUMBER
    lengths = sorted(len(example.target.split()) for example in examples)
    return Form.SHORT if lengths[len(lengths) // 2] <= SHORT_WORDS else Form.SUMMARY


def _labels(examples: Sequence[Example]) -> tuple[str, ...]:
    found = {c for e in examples for c in e.choices if _form_of_choices(e.choices) is Form.LABEL}
    return tuple(sorted(found)) if len(found) <= 30 else ()


def _number_of(target: str) -> str:
    """The number that a target is or ends in; empty if it holds none."""
    target = target.strip()
    if _NUMERIC.match(target):
        return target
    hashed = _HASHED.search(target)
    return hashed[1] if hashed else ""


def _distractors(form: Form, example: Example, gold: str, targets: Sequence[str], draw: float) -> tuple[str, ...]:
    if example.choices:
        return tuple(choice for choice in example.choices if choice != gold)
    if form is Form.NUMBER:
        return _near_numbers(gold)
    if form is Form.SUMMARY:
        return ()
    own = gold.strip().lower()
    at = int(draw * len(targets))
    others = (target for target in (*targets[at:], *targets[:at]) if target.strip().lower() != own)
    return tuple(itertools.islice(others, 3))


def _near_numbers(gold: str) -> tuple[str, ...]:
    try:
        value = float(re.sub(r"[,$%+]", "", gold))
    except ValueError:  # a stray text among numbers
        value = 0.0
    near = {value + 1, value - 1, value * 2, value / 2, value * 10, value + 10} - {value}
    return tuple(f"{number:.12g}" for number in sorted(near))


def _name(text: str) -> str:
    """Names a text up to case and white space."""
    return digest(" ".join(text.lower().split()))


def _last_word(text: str, value: str) -> int:
    """Where a short value stands last in a text as a word of its own; -1 if nowhere."""
    at = text.rfind(value)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(value) : at + len(value) + 1]
        if not before.isalnum() and not after.isalnum():
            return at
        at = text.rfind(value, 0, at + len(value) - 1)
    return -1


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
