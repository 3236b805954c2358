"""Whether an answer gives the expected label and no other.

Labels are matched as whole words, without regard to case, the longest first (`Harmless Application` before `Harmless`).
What counts, strongest first; the first kind that occurs decides, and different labels of that kind are an ambiguous
answer, which scores 0:

1. announced: `Answer: yes`, `the label is Harmful Application`
2. the only label on the last line: where reasoning ends
3. the only label in the text
4. the label that the text opens with, before a punctuation mark: `Yes, there is no doubt`

A negated label is no label: `not hallucinated` is neither `hallucinated` nor, unless it is in the list, a label of its
own. Part of a label (`Harmful` for `Harmful Application`) does not count: the answer form is part of the task.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from utils.metrics.announcement import ANNOUNCEMENT
from utils.metrics.reasons import enumerate_words, quote
from utils.records import Example, Score

_MARKUP = re.compile(r"[*`]+")
_NEGATION = re.compile(
    r"(?:\b(?:not|never|no|cannot|neither|nor|without)|n['’]t)\s+"
    r"(?:(?:a|an|the|be|been|really|actually|clearly|necessarily|considered|any|at\s+all|to\s+be|being)\s+){0,3}[\"'“‘(]*$"
    r"|\bnon-?$",
    re.IGNORECASE,
)
_NEGATION_REACH = 80  # characters before a label that are searched for its negation


@dataclass(frozen=True)
class LabelAccuracy:
    """1 if the answer gives the target label, else 0. `labels` empty: the example's choices."""

    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "label_accuracy"

    def __call__(self, example: Example, answer: str) -> Score:
        labels = _labels(self.labels or example.choices, example.target)
        wanted = f"expected one of {enumerate_words(labels)}"
        target = _key(example.target)
        given = given_labels(answer, labels)
        if [_key(label) for label in given] == [target]:
            return Score(1.0, f"found {given[0]}, as expected")
        if len(given) == 1:
            return Score(0.0, f"expected {' '.join(example.target.split())}, found {given[0]}")
        if given:
            return Score(0.0, f"{wanted}, found {enumerate_words(given)}")
        return Score(0.0, f"{wanted}, found {quote(answer) if answer.strip() else 'no text'}", found=False)


def given_labels(answer: str, labels: tuple[str, ...]) -> list[str]:
    """The different labels that an answer gives, in the order of the labels: one if it is clear."""
    if not labels:
        return []
    text = _MARKUP.sub("", answer).strip()
    label, announced, opening = _patterns(labels)
    by_key = {_key(name): name for name in reversed(labels)}

    def in_order(keys: set[str]) -> list[str]:
        return [name for key, name in reversed(by_key.items()) if key in keys]

    said = {_key(name[0]) for match in announced.finditer(text) for name in label.finditer(match["given"])}
    if said:
        return in_order(said)
    last = _mentioned(text.rpartition("\n")[2], label)
    everywhere = last if len(last) == 1 else _mentioned(text, label)
    if len(everywhere) > 1 and (match := opening.match(text)):
        return in_order({_key(match["given"])})
    return in_order(everywhere)


def _mentioned(text: str, label: re.Pattern[str]) -> set[str]:
    """The keys of the labels in a text that are not negated."""
    spans = ((match, text[max(0, match.start() - _NEGATION_REACH) : match.start()]) for match in label.finditer(text))
    return {_key(match[0]) for match, before in spans if not _NEGATION.search(before)}


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    longest_first = sorted({tuple(label.split()) for label in labels}, key=lambda words: (-len("".join(words)), words))
    names = "|".join(r"[\s_-]+".join(map(re.escape, words)) for words in longest_first)
    label = rf"(?<!\w)(?:{names})(?!\w)"
    joined = rf"{label}(?:[\s\"']{{0,4}}(?:,|/|&|\bor\b|\band\b)[\s\"']{{0,4}}{label}){{0,{len(labels)}}}"
    return (
        re.compile(label, re.IGNORECASE),
        re.compile(rf"{ANNOUNCEMENT}(?P<given>{joined})", re.IGNORECASE),
        re.compile(rf"[\"'“‘(]*(?P<given>{label})[\"'”’)]*(?:[,.:;!]|\s[-–—]\s)(?!\s*{label})", re.IGNORECASE),
    )


def _labels(labels: tuple[str, ...], target: str) -> tuple[str, ...]:
    """The labels without blanks and doubles, the target always among them."""
    by_key: dict[str, str] = {}
    for label in (*labels, target):
        if label.strip():
            by_key.setdefault(_key(label), " ".join(label.split()))
    return tuple(by_key.values())


def _key(label: str) -> str:
    """Equal for labels that differ in case and separators only."""
    return " ".join(re.split(r"[\s_-]+", label.strip().lower()))
