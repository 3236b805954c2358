"""Whether an answer picks the expected option, by its letter (A-E) or number (1-4).

What counts as picking, strongest first; the first kind that occurs decides, and different letters of that kind are an
ambiguous answer, which scores 0:

1. announced: `Answer: B`, `the answer is (B)`, `<answer>B</answer>`, `\\boxed{B}`
2. a line that holds nothing else: `B`, `b`, `(B)`, `**B**`, `B.`
3. a line that begins with it: `B) the moon`, `B. the moon`, `(B) the moon`
4. marked inside a sentence: `option B`, `(B)`, `**B**`, `"B"`

A loose letter in prose does not count (`vitamin C`, `I would say B`), nor does the article (`A star is hot`,
`the answer is a star`), nor the option's text alone: following the answer form is part of the task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from utils.metrics.announcement import ANNOUNCEMENT, OPENING
from utils.metrics.reasons import enumerate_words, quote
from utils.records import Example, Score

LETTERS = tuple("ABCDE")
DIGITS = tuple("12345")
# an article never stands before these words, so a letter does: "A because ..."
_CONNECTIVE = r"(?:because|since|as|is|was|and|or|but|for|due|not|which|that|while|given)\b"
# "B, C is wrong": the second letter begins a new statement
_PREDICATE = r"(?:is|was|are|would|does|cannot|can|could|has)\b"
_MARKUP = re.compile(r"[*`]+|\\text\b")


@dataclass(frozen=True)
class OptionLetter:
    """1 if the answer picks the target's option and no other, else 0. Options are the example's choices."""

    name: ClassVar[str] = "option_letter"

    def __call__(self, example: Example, answer: str) -> Score:
        target = example.target.strip().upper()
        options = _options(example, target)
        picked = picks(answer, options)
        kind = "digit" if options[0].isdigit() else "letter"
        wanted = f"expected a single {kind} among {options[0]}-{options[-1]}"
        if picked == [target]:
            return Score(1.0, f"found {target}, as expected")
        if len(picked) == 1:
            return Score(0.0, f"expected {target}, found {picked[0]}")
        if picked:
            return Score(0.0, f"{wanted}, found {enumerate_words(picked)}")
        return Score(0.0, f"{wanted}, found {_prose(answer, options, kind)}", found=False)


def picks(answer: str, options: tuple[str, ...]) -> list[str]:
    """The different options that an answer picks, in the order of the options: one if it is clear."""
    one, several = _patterns(options)
    plain = _MARKUP.sub("", answer)
    for kind, text in zip(several, (plain, plain, plain, answer), strict=True):
        found = {letter.upper() for match in kind.finditer(text) for letter in _letters(one, match)}
        if found:
            return [option for option in options if option in found]
    return []


def _letters(one: re.Pattern[str], match: re.Match[str]) -> Iterator[str]:
    return (letter[0] for letter in one.finditer(match["pick"]))


@lru_cache(maxsize=64)
def _patterns(options: tuple[str, ...]) -> tuple[re.Pattern[str], tuple[re.Pattern[str], ...]]:
    """One option as a word; and the four kinds of picking, each with the options picked in its group `pick`."""
    any_case = sorted(
        {form for option in options for form in (option, option.lower())}, key=lambda form: (-len(form), form)
    )
    letter = rf"(?<![\w'’.])(?:{'|'.join(map(re.escape, any_case))})(?![\w'’]|\.\w)"
    # a capital that is no English word needs no care; the others are an option only if no ordinary word follows
    bold = [re.escape(option) for option in options if option.isupper() and option not in "AI"]
    sure = rf"(?<![\w'’.])(?:{'|'.join(bold)})(?![\w'’]|\.\w)|" if bold else ""
    careful = rf"(?:{sure}{letter}(?![ \t]+(?!{_CONNECTIVE})\w|-\w))"
    join = r"[)\]\"]{0,3}\s{0,4}(?:,\s{0,4}(?:or|and)\b|,|/|&|\bor\b|\band\b)\s{0,4}[(\[\"]{0,3}"
    another = rf"{careful}(?!\s{{1,4}}{_PREDICATE})"
    pick = rf"(?P<pick>{careful}(?:{join}{another}){{0,{len(options)}}})"
    announced = rf"(?i:{ANNOUNCEMENT}){pick}"
    several = rf"{letter}(?:{join}{letter}){{0,{len(options)}}}"
    alone = rf"^(?i:{OPENING}(?:(?:option|choice|letter)\s+)?)(?P<pick>{several})[\s.,:;!)\]}}\"'”’$]*$"
    leading = rf"^[ \t]*(?:[(\[](?P<boxed>{letter})[)\]]|(?P<bare>{letter})[ \t]*(?:[).:\]]|[-–—][ \t]))(?=[ \t]+\S)"
    leading = rf"(?P<pick>{leading})"
    marked = (
        rf"(?P<pick>\((?:{letter})\)|\[(?:{letter})\]|\*\*\(?(?:{letter})[.)]?\*\*|[\"“](?:{letter})[.]?[\"”]"
        rf"|\b(?i:option|choice)\s+(?:{careful}))"
    )
    kinds = tuple(re.compile(kind, re.MULTILINE) for kind in (announced, alone, leading, marked))
    return re.compile(letter), kinds


def _options(example: Example, target: str) -> tuple[str, ...]:
    """The example's choices; without any, A-E or 1-5, as the target is one or the other."""
    options = [choice.strip().upper() for choice in example.choices if choice.strip()]
    options = options or list(DIGITS if target.isdigit() else LETTERS)
    return tuple(dict.fromkeys([*options, *([target] if target else [])]))


def _prose(answer: str, options: tuple[str, ...], kind: str) -> str:
    if not answer.strip():
        return "no text"
    words = set(re.findall(r"(?<![\w'’])\w+(?![\w'’])", answer))
    loose = [option for option in options if option in words]
    if loose:
        return f"prose with {kind}{'s' * (len(loose) > 1)} {enumerate_words(loose)}"
    return f"{quote(answer)}, which names none"
