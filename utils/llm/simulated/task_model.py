"""The text, the tokens and the log-probabilities of a simulated answer.

What is right or well formed is decided by the landscape; here it becomes words that real metrics read. Faults of form
are real ones: two letters, an ordinal in place of a letter, a number in words, a chatty wrapper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from utils.llm.simulated.draws import normal, pick, pick_weighted, uniforms
from utils.llm.simulated.features import sentences
from utils.llm.simulated.landscape import Item, Landscape, View
from utils.llm.simulated.lexicon import CHECKING, REASONING, Cue, Form
from utils.records import TokenLogprob

TOKENS = {Form.LETTER: 30, Form.LABEL: 30, Form.NUMBER: 30, Form.SHORT: 30, Form.SUMMARY: 90}
COT_TOKENS = 60
VERIFY_TOKENS = 15
CONCISE_BASE, CONCISE_COT = 0.8, 0.5
TOKEN_SPREAD = 0.25  # of the logarithm
LATENCY_SPREAD = 0.3
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

LETTER_FAULTS = (
    "The {ordinal} option seems most fitting, though the {other_ordinal} one has its merits.",
    "Most likely the {ordinal} option, as far as the wording goes.",
    "Probably {answer}, but {other} cannot be ruled out.",
    'Both "{answer}" and "{other}" look plausible here.',
)
LABEL_FAULTS = (
    'Both "{answer}" and "{other}" could be argued here.',
    "In part {answer}, in part {other}.",
    "It depends on how one reads it.",
    "One could see it either way, and much speaks for each reading.",
)
NUMBER_FAULTS = (
    "That makes {words}, checked in {trailing} ways.",
    "The result should be {words} after {trailing} steps.",
    "All in all it comes to {words}; {trailing} figures went into this.",
)
SHORT_FAULTS = (
    "Thank you for asking! Having gone through everything that was provided, my impression is that the thing you are "
    "looking for might well be {answer}, although several other candidates are mentioned in the material too.",
    "This is an interesting one. There is a fair amount of material here, and after some consideration it seems to "
    "point in the direction of {answer}, but please treat this with some caution and look at the source yourself.",
    "Well, one could say a lot here; among the many things that are mentioned, {answer} stands out to me, and there is "
    "more to be said on the background if you would like to hear it.",
)
SUMMARY_FAULT = "Here is what I made of it, at some length. {answer} To go on with further details: {rest}"


@dataclass(frozen=True)
class Outcome:
    """What became of one item under one prompt."""

    item: Item
    view: View
    p_right: float
    right: bool
    formed: bool
    draw: tuple[float, ...]  # 3 distractor, 4 hint, 5 wording, 6 tokens, 7 latency


@dataclass(frozen=True)
class Chance:
    """What an answer's luck depends on besides text and item."""

    temperature: float
    sample: int

    def draws(self, landscape: Landscape, view: View, item: Item) -> tuple[float, ...]:
        """The draws of one sample."""
        return uniforms(landscape.model, view.digest, item.id, f"t{self.temperature!r}", str(self.sample))


def decide(landscape: Landscape, item: Item, view: View, shown: bool, chance: Chance) -> Outcome:
    """Right or wrong, well formed or not: both fixed by the text and the item at temperature 0."""
    fixed = landscape.draws(view, item)
    p = landscape.p_right(view, item, normal(fixed[0]), chance.temperature) if shown else item.guess
    draw = chance.draws(landscape, view, item) if chance.temperature > 0 else fixed
    return Outcome(item, view, p, draw[1] < p, draw[2] < view.p_form, draw)


def answer_text(landscape: Landscape, outcome: Outcome) -> tuple[str, str]:
    """The answer as written, and the option or value that it means."""
    item, draw = outcome.item, outcome.draw
    answer = item.gold if outcome.right else _wrong_answer(item, draw[3])
    lines = _lead(landscape, outcome, answer)
    aloud = bool(lines)
    if not outcome.formed:
        lines.append(_malformed(item, answer, draw))
    else:
        lines.append(_formed(outcome, answer, aloud))
    return "\n".join(lines), answer


def tokens_out(outcome: Outcome) -> tuple[int, int]:
    """Tokens of the answer, and how many of them are reasoning that is not shown."""
    cues = outcome.view.features.cues
    concise = Cue.CONCISE in cues
    base = TOKENS[outcome.item.form] * (CONCISE_BASE if concise else 1.0)
    thinking = COT_TOKENS * (CONCISE_COT if concise else 1.0) * (Cue.COT in cues)
    mean = base + thinking + VERIFY_TOKENS * (Cue.VERIFY in cues)
    total = max(1, round(mean * math.exp(TOKEN_SPREAD * normal(outcome.draw[6]))))
    hidden = _is_free(outcome.item.form) and thinking > 0
    return total, min(total, round(total * thinking / mean)) if hidden else 0


def latency_s(tokens: int, uniform: float) -> float:
    """Seconds for an answer of so many tokens."""
    return round((0.2 + tokens / 80) * math.exp(LATENCY_SPREAD * normal(uniform)), 6)


def logprobs(outcome: Outcome, text: str, answer: str, top: int) -> tuple[TokenLogprob, ...] | None:
    """Log-probabilities of the tokens of a letter or label answer: at the answer, p(gold) is the chance of being right.

    A label is one token. An answer in prose has no position at which the labels compete, so none are listed.
    """
    item = outcome.item
    if not item.options:
        return None
    head, _, last = text.rpartition("\n")
    if not outcome.formed or not last.endswith(answer):
        return tuple(TokenLogprob(token, -0.1, {token: -0.1}) for token in _tokens(text))
    lead = f"{head}\n{last}"[: len(text) - len(answer)] if head else last[: len(last) - len(answer)]
    tokens = [TokenLogprob(token, -0.05, {token: -0.05}) for token in _tokens(lead)]
    chances = _chances(outcome)
    listed = dict(sorted(chances.items(), key=lambda pair: (-pair[1], pair[0]))[:top])
    return (*tokens, TokenLogprob(answer, chances[answer], listed))


def _chances(outcome: Outcome) -> dict[str, float]:
    """Log-probability of each option; the wrong ones share 1 - p by the weights of the item."""
    item = outcome.item
    total = sum(item.wrong_weights)
    p = min(max(outcome.p_right, 1e-9), 1 - 1e-9) if item.wrong else 1.0
    chances = {item.gold: math.log(p)}
    for option, weight in zip(item.wrong, item.wrong_weights, strict=True):
        chances[option] = math.log((1 - p) * weight / total)
    return chances


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _wrong_answer(item: Item, uniform: float) -> str:
    if item.wrong:
        return pick_weighted(item.wrong, item.wrong_weights, uniform)
    if item.form is Form.SUMMARY:
        return _other_sentences(item.longest, uniform) or "Something else happened."
    return "unknown"


def _other_sentences(text: str, uniform: float) -> str:
    """Three sentences in a row from the second half of a text: true, and beside the point."""
    found = sentences(text[:6000])
    later = found[len(found) // 2 :]
    start = int(uniform * max(1, len(later) - 2))
    return " ".join(later[start : start + 3])


def _lead(landscape: Landscape, outcome: Outcome, answer: str) -> list[str]:
    """The lines before the answer: reasoning where it is asked for, and the hint of a missing skill."""
    item, cues, draw = outcome.item, outcome.view.features.cues, outcome.draw
    lines: list[str] = []
    if not _is_free(item.form):
        if Cue.COT in cues:
            count = 1 if Cue.CONCISE in cues else 3
            start = int(draw[5] * len(REASONING))
            lines += [REASONING[(start + i) % len(REASONING)] for i in range(count)]
        if Cue.VERIFY in cues:
            lines.append(pick(CHECKING, draw[5]))
    if not outcome.right and draw[4] < landscape.settings.h:
        skill = landscape.skills[item.skill]
        if skill.name not in outcome.view.features.skills:
            lines.append(pick([h for h in skill.hints if not _clashes(h, item.options)] or [""], draw[5]))
    return [line for line in lines if line and not _clashes(line, item.options)]


def _clashes(line: str, options: Sequence[str]) -> bool:
    """True if a line holds an option as a word, so that a metric could take it for the answer."""
    words = set(re.findall(r"\w+", line.lower()))
    return any(option.lower() in words or (" " in option and option.lower() in line.lower()) for option in options)


def _formed(outcome: Outcome, answer: str, aloud: bool) -> str:
    form, features = outcome.item.form, outcome.view.features
    if form is Form.NUMBER:
        return f"#### {answer}" if features.hash_mark else (f"The final number is {answer}" if aloud else answer)
    if form is Form.SUMMARY and outcome.right:
        return _loosely(answer, outcome.draw[5])
    return f"Answer: {answer}" if aloud and not _is_free(form) else answer


def _loosely(text: str, uniform: float) -> str:
    """A text with every n-th word left out: the same said a little differently."""
    words = text.split()
    every = 5 + int(uniform * 5)
    return " ".join(word for i, word in enumerate(words) if (i + 1) % every)


def _malformed(item: Item, answer: str, draw: Sequence[float]) -> str:
    if item.form is Form.SUMMARY:
        found = sentences(item.longest[:8000])
        return SUMMARY_FAULT.format(answer=answer, rest=" ".join(found[len(found) // 3 :][:14]))
    if item.form is Form.SHORT:
        return pick(SHORT_FAULTS, draw[5]).format(answer=answer)
    if item.form is Form.NUMBER:
        value = _value(answer)
        gold = _value(item.gold)
        trailing = next(n for n in (3, 2, 4) if n not in (gold, value))
        return pick(NUMBER_FAULTS, draw[5]).format(words=in_words(value), trailing=trailing)
    others = [option for option in item.options if option != answer]
    other = pick(others, draw[7]) if others else answer
    faults = LETTER_FAULTS if item.form is Form.LETTER else LABEL_FAULTS
    return pick(faults, draw[5]).format(
        answer=answer, other=other, ordinal=_ordinal(item, answer), other_ordinal=_ordinal(item, other)
    )


def _ordinal(item: Item, option: str) -> str:
    at = item.options.index(option) if option in item.options else len(_ORDINALS)
    return _ORDINALS[at] if at < len(_ORDINALS) else "last"


def _is_free(form: Form) -> bool:
    return form in (Form.SHORT, Form.SUMMARY)


def _value(text: str) -> float:
    try:
        return float(re.sub(r"[,$%+]", "", text))
    except ValueError:
        return 0.0


_UNDER_TWENTY = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_SMALL = tuple(_UNDER_TWENTY.split())
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SIZES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))


def in_words(value: float) -> str:
    """A number in words.

    >>> in_words(1172.5)
    'one thousand one hundred seventy-two point five'
    """
    if value < 0:
        return f"minus {in_words(-value)}"
    if value >= 1e15:
        return "a very large number"
    whole, _, fraction = f"{value:.10f}".rstrip("0").partition(".")
    tail = f" point {' '.join(_SMALL[int(digit)] for digit in fraction)}" if fraction else ""
    return _whole(int(whole)) + tail


def _whole(number: int) -> str:
    for size, name in _SIZES:
        if number >= size:
            head, rest = divmod(number, size)
            return f"{_whole(head)} {name}" + (f" {_whole(rest)}" if rest else "")
    if number < 20:
        return _SMALL[number]
    ten, one = divmod(number, 10)
    return _TENS[ten] + (f"-{_SMALL[one]}" if one else "")
