"""Meta-prompting with a memory: whole new prompts from the best ones so far and their scores, in rounds.

Source: the meta-prompt optimizer of the opik-optimizer package, version 3; showing scored prompts is an idea of C. Yang
et al., Large Language Models as Optimizers, 2023. Differs: a candidate is dropped on the first few rows where it does
worse than the best prompt (`first_rows`), so that a small budget bears more trials; scores of such prompts are shown as
estimates, paired with the best prompt's on the same rows; patterns are extracted every five trials counted from the
last extraction (the source counts from the trial of its fifth best entry, and extracts too often); an entry holds a
pattern if it holds its words, not any long word of it; temperature and length of replies are the harness's.

    best <- score(seed) on a sample of validation; hall <- {seed}
    repeat until max_trials:
        ask for r new prompts, given best, the hall's top five, the last rounds' top four, a few training examples
            fitted into a quarter of the window and, with probability .6, up to three winning patterns
        every third round two of the r are syntheses: the best of the hall made into one
        score each; the best of the round enters the hall if it is among the ten best, and is best if strictly better
        every five trials: patterns <- ask what the hall's top five have in common
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import (
    MAX_BARREN_STEPS,
    Ask,
    Editor,
    edited,
    prompt_schema,
    show_all,
    show_example,
    show_prompt,
    tag,
)
from optimizers.problem import Problem
from optimizers.screening import Look, screen
from utils.errors import UsageError
from utils.prompt import Prompt
from utils.records import Budget, Example, Forecast, StopReason

TOP = 5  # of the hall: shown, and searched for patterns
LAST_ROUNDS, TOP_OF_ROUND = 3, 4  # of the history that is shown
SYNTHESIS_EVERY, SYNTHESES = 3, 2  # rounds; prompts
PATTERNS_SHOWN, LEAST_ENTRIES = 3, 3
EXAMPLES_SHARE, HISTORY_SHARE = 0.25, 0.5  # of the window
MOST_EXAMPLE_TOKENS = 10_000
UNKNOWN_WINDOW, LEAST_WINDOW = 32_000, 1000  # tokens: where nobody knows better; that a parameter may give
LONGEST_VALUE, SHORTEST_VALUE, VALUE_STEP = 2000, 200, 200  # characters that a shown value is cut to
MAX_EMPTY_ROUNDS = 3


@dataclass(frozen=True)
class MetaPrompt(Optimizer):
    """Ask for whole new prompts in rounds, given the best so far, their scores and what they have in common."""

    prompts_per_round: int = 4
    max_trials: int = 120  # prompts scored (source: 30, each on a whole sample; here most cost a few rows)
    enable_context: bool = True  # show training examples
    num_task_examples: int = 5
    hall_size: int = 10
    extract_every: int = 5  # trials between two extractions of patterns; 0: never
    injection_rate: float = 0.6  # share of the rounds that are shown patterns
    synthesis: bool = True  # every third round joins the best prompts
    edit: Literal["system", "all"] = "system"  # the texts that may be changed
    max_context_tokens: int = 0  # the window that a request is fitted to; 0: the optimizer model's own
    target: float = 0.95  # score on the sample that is good enough
    n_samples: int = 0  # validation rows of a whole trial; 0: as many as the budget bears
    first_rows: int = 8  # of the sample, for a first look at a candidate; 0: none

    def __post_init__(self) -> None:
        self.refuse_below(
            prompts_per_round=1,
            max_trials=1,
            num_task_examples=0,
            hall_size=LEAST_ENTRIES,
            extract_every=0,
            n_samples=0,
            first_rows=0,
        )
        if 0 != self.max_context_tokens < LEAST_WINDOW:
            raise UsageError(f"max_context_tokens is {self.max_context_tokens}; give {LEAST_WINDOW} or more, or 0")
        if not 0 <= self.injection_rate <= 1:
            raise UsageError(f"injection_rate is {self.injection_rate}; give a share from 0 to 1")
        if self.edit not in ("system", "all"):
            raise UsageError(f"edit is {self.edit!r}; give system or all")

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        sample = problem.validation[: self._sample(len(problem.validation), problem.calls_left)]
        best = problem.score(problem.seed, sample)
        window = self.max_context_tokens or editor.context_tokens or UNKNOWN_WINDOW
        hall = Hall(self.hall_size)
        hall.enter(best.prompt, best.mean)
        history: list[list[Look]] = []
        trials = extracted = empty = 0
        while trials < self.max_trials:
            if best.mean >= self.target:
                return StopReason.TARGET_REACHED
            wanted = min(self.prompts_per_round, self.max_trials - trials)
            asks = self._asks(problem, best.prompt, hall, history, wanted, window, rng)
            fresh = proposals(problem, editor, best.prompt, asks)[:wanted]
            looks = screen(problem, "propose", fresh, best.prompt, sample, self.first_rows, rng)
            trials += len(looks)
            history.append(sorted(looks, key=lambda look: -look.estimate))
            empty = 0 if looks else empty + 1
            if empty >= MAX_EMPTY_ROUNDS:
                return StopReason.EXHAUSTED
            whole = [look.trial for look in history[-1] if look.passed]
            for order, trial in enumerate(whole):
                accepted = order == 0 and trial.mean > best.mean
                problem.log(
                    "propose",
                    "accept" if accepted else "reject",
                    f"{trial.mean:.3f} against {best.mean:.3f} on the sample",
                    parents=[best.prompt],
                    candidate=trial.prompt,
                    numbers={"candidate": trial.mean, "best": best.mean, "trial": trials},
                )
            if whole:
                hall.enter(whole[0].prompt, whole[0].mean)
                best = max(best, whole[0], key=lambda trial: trial.mean)
            if self.extract_every and trials - extracted >= self.extract_every and len(hall.entries) >= LEAST_ENTRIES:
                extracted = trials
                extract(problem, editor, hall)
            hall.report(problem)
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        sample = self._sample(extent.validation, budget.task_calls)
        most = sample * (1 + self.max_trials)
        likely = sample + self.max_trials * (min(2 * self.first_rows, sample) if self.first_rows else sample)
        rounds = -(-self.max_trials // self.prompts_per_round)
        extractions = self.max_trials // self.extract_every if self.extract_every else 0
        # a round may bring one new prompt only, after two that brought none, each after many without a reply; it asks
        # at most twice, and may repair both
        asks = 3 * self.max_trials * 4 * MAX_BARREN_STEPS + 2 * extractions
        return forecast(budget, (sample, likely, most), (0, rounds + rounds // SYNTHESIS_EVERY + extractions, asks))

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)

    def _asks(
        self,
        problem: Problem,
        best: Prompt,
        hall: Hall,
        history: Sequence[Sequence[Look]],
        wanted: int,
        window: int,
        rng: Random,
    ) -> list[Ask]:
        """What a round asks: for new prompts, and every third round for syntheses as well."""
        joined = 0
        if self.synthesis and (len(history) + 1) % SYNTHESIS_EVERY == 0 and len(hall.entries) > 1:
            joined = min(SYNTHESES, wanted)
        injected = hall.winning() if rng.random() < self.injection_rate else []
        asks = []
        if joined:
            entries = (show_prompt(prompt, score) for prompt, score in hall.entries[:TOP])
            shown = fit(entries, int(window * HISTORY_SHARE))
            asks.append(Ask(SYNTHESIZE.format(count=joined), show_all(shown), self._schema(best)))
        if wanted > joined:
            data = self._context(problem, hall, history, injected, window, rng)
            asks.append(Ask(PROPOSE.format(count=wanted - joined), data, self._schema(best)))
        return asks

    def _context(
        self,
        problem: Problem,
        hall: Hall,
        history: Sequence[Sequence[Look]],
        injected: Sequence[Pattern],
        window: int,
        rng: Random,
    ) -> str:
        """The best prompt first, then other prompts with their scores, patterns and examples."""
        prompts = {prompt.id: (prompt, score) for prompt, score in hall.entries[:TOP]}
        for looks in reversed(history[-LAST_ROUNDS:]):
            for look in looks[:TOP_OF_ROUND]:
                prompts.setdefault(look.prompt.id, (look.prompt, look.estimate))
        sections = fit((show_prompt(*entry) for entry in prompts.values()), int(window * HISTORY_SHARE))
        if injected:
            sections.append("\n".join([INJECTED, *(tag("pattern", pattern.words) for pattern in injected)]))
            for pattern in injected:
                pattern.used += 1
        if self.enable_context and self.num_task_examples:
            examples = problem.draw(self.num_task_examples, rng)
            room = min(MOST_EXAMPLE_TOKENS, int(window * EXAMPLES_SHARE))
            sections += [EXAMPLES.format(metric=problem.objective), *fit_examples(examples, room)]
        return show_all(sections)

    def _schema(self, prompt: Prompt) -> dict[str, Any]:
        form = prompt_schema(prompt if self.edit == "all" else Prompt(system=prompt.system))
        return _listed("prompts", prompt=form, improvement_focus={"type": "string"}, reasoning={"type": "string"})


# ------------------------------------------------------------------ memory


@dataclass
class Pattern:
    """Words that good prompts share."""

    words: str
    used: int = 0  # rounds that were shown it


@dataclass
class Hall:
    """The best prompts so far, best first, and the patterns found in them."""

    size: int
    entries: list[tuple[Prompt, float]] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)

    def enter(self, prompt: Prompt, score: float) -> None:
        """Keep the prompt if it is among the best; of equals the shorter, then the earlier."""
        if all(prompt.id != other.id for other, _ in self.entries):
            ranked = sorted([*self.entries, (prompt, score)], key=lambda entry: (-entry[1], entry[0].length))
            self.entries = ranked[: self.size]

    def report(self, problem: Problem) -> None:
        """Keep the entries and the patterns with the result."""
        problem.report("hall_of_fame", [{"prompt": prompt, "score": score} for prompt, score in self.entries])
        rows = [{"words": p.words, "value": self.value(p), "used": p.used} for p in self.patterns]
        problem.report("patterns", rows)

    def learn(self, words: str) -> bool:
        """Remember a pattern, if it is new and some entry holds it."""
        words = " ".join(words.split())
        pattern = Pattern(words)
        known = any(folded(words) == folded(other.words) for other in self.patterns)
        if known or len(words.split()) < 2 or not self.value(pattern):
            return False
        self.patterns.append(pattern)
        return True

    def value(self, pattern: Pattern) -> float:
        """Mean score of the entries that hold it, less the more often it was used."""
        scores = [score for prompt, score in self.entries if folded(pattern.words) in folded(said(prompt))]
        return sum(scores) / len(scores) / (1 + 0.1 * pattern.used) if scores else 0.0

    def winning(self) -> list[Pattern]:
        """The patterns of the greatest value."""
        ranked = sorted(self.patterns, key=lambda pattern: -self.value(pattern))
        return [pattern for pattern in ranked if self.value(pattern)][:PATTERNS_SHOWN]


def extract(problem: Problem, editor: Editor, hall: Hall) -> None:
    """Ask what the best prompts have in common, and remember what is really in them."""
    top = hall.entries[:TOP]
    ask = Ask(EXTRACT, show_all(show_prompt(prompt, score) for prompt, score in top), PATTERNS)
    reply = editor.ask("extract_patterns", ask)
    if reply is None:
        return
    learned = [row["example"] for row in reply["patterns"][:TOP] if hall.learn(row["example"])]
    problem.log(
        "extract_patterns",
        "accept" if learned else "skip",
        "; ".join(learned) or "no new pattern that an entry holds",
        parents=[prompt for prompt, _ in top],
        numbers={"new": len(learned), "known": len(hall.patterns)},
    )


def proposals(problem: Problem, editor: Editor, parent: Prompt, asks: Sequence[Ask]) -> list[Prompt]:
    """The new and valid prompts that the replies hold, in their order; the rest is logged.

    There are none where all were scored before. A round that gives no prompt which could be scored is asked again.
    """
    while True:
        found: dict[str, Prompt] = {}
        repeated = False
        for reply in editor.ask_all("propose", asks):
            for row in reply["prompts"] if reply else ():
                candidate = edited(parent, row["prompt"])  # a text that is missing is the parent's
                if candidate.id in found or candidate.id == parent.id or problem.is_scored(candidate):
                    repeated = True
                    problem.log("propose", "duplicate", "scored before", parents=[parent], candidate=candidate)
                elif objection := problem.objection(candidate):
                    problem.log("propose", "invalid", objection, parents=[parent], candidate=candidate)
                else:
                    found[candidate.id] = candidate
        fresh = list(found.values())
        if repeated and not fresh:
            return []
        if editor.accept("propose", parent, fresh[0] if fresh else None):
            return fresh


# ------------------------------------------------------------------ fitting text into a window


def tokens(text: str) -> int:
    """About as many tokens as the text has: four characters each."""
    return -(-len(text) // 4)


def fit(sections: Iterable[str], room: int) -> list[str]:
    """The first sections that fit into so many tokens; the very first always."""
    kept: list[str] = []
    for section in sections:
        room -= tokens(section)
        if kept and room < 0:
            break
        kept.append(section)
    return kept


def fit_examples(examples: Sequence[Example], room: int) -> list[str]:
    """The examples as tagged data within so many tokens: values are cut shorter first, then examples left out."""
    for count in range(len(examples), 0, -1):
        longest = range(LONGEST_VALUE, SHORTEST_VALUE - 1, -VALUE_STEP) if count == len(examples) else [SHORTEST_VALUE]
        for limit in longest:
            shown = [show_example(cut(example, limit)) for example in examples[:count]]
            if tokens(show_all(shown)) <= room:
                return shown
    return []


def cut(example: Example, limit: int) -> Example:
    """The example with no value longer than so many characters."""

    def short(text: str) -> str:
        return text if len(text) <= limit else f"{text[:limit]}..."

    inputs = {name: short(value) for name, value in example.inputs.items()}
    return replace(example, inputs=inputs, target=short(example.target))


def said(prompt: Prompt) -> str:
    return f"{prompt.system}\n{prompt.user}\n{prompt.output}"


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _listed(name: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with one list of objects of these properties."""
    closed = {"type": "object", "additionalProperties": False}
    items = {**closed, "properties": properties, "required": list(properties)}
    return {**closed, "properties": {name: {"type": "array", "items": items, "minItems": 1}}, "required": [name]}


PATTERNS = _listed("patterns", pattern={"type": "string"}, example={"type": "string"})

RULES = """\
Write instructions that hold for any input of this kind. Do not name the fields of the data, the way answers are scored
or a score, and take no wording from the examples."""

PROPOSE = f"""\
The prompt shown first is the best so far; the others were tried as well, each with its mean score from 0 to 1.
Compare what the high ones say with what the low ones say, and write {{count}} new prompts that should score higher than
all of them. Let them differ from each other in length, structure, tone or approach; say for each what it tries to
improve and why that should help. {RULES}"""

SYNTHESIZE = f"""\
The prompts below are the best so far, each with its mean score from 0 to 1. Write {{count}} new prompts that combine
what they do well into one complete and consistent prompt; where two of them disagree, follow the better one. {RULES}"""

INJECTED = "These wordings are part of prompts that did well. Use those that help:"

EXAMPLES = "Some inputs with the answers that are expected ({metric} decides how well an answer fits):"

EXTRACT = """\
The prompts below did best. Name up to five things that the better of them say or do and that can be used again:
`pattern` describes it, `example` quotes the sentence of a prompt that does it, word for word."""
