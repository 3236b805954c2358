"""Finds the worked examples inside a prompt's text.

A demo is an input value of a known example with that example's answer after it. It is recognised in the text, so demos
that an optimizer wrote by hand count like those that the harness rendered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from utils.records import Example

_KEY = 16  # characters by which the beginning of an input value is looked up
_START = re.compile(r"\b\w")
_FIRST = re.compile(r"\w")


@dataclass(frozen=True)
class Found:
    """A demo in a text: whose it is, whether its answer is the right one, and where it stands."""

    example_id: str
    correct: bool
    start: int
    end: int


@dataclass
class _Group:
    start: int
    end: int
    names: list[str]  # the examples that have all of the values
    values: set[str]


class DemoFinder:
    """Looks for the input values of these examples."""

    def __init__(self, examples: Iterable[Example], answers: Mapping[str, tuple[str, ...]]) -> None:
        self._answers = answers
        owners: dict[str, list[str]] = {}
        for example in examples:
            for value in _telling(example):
                owners.setdefault(value, []).append(example.id)
        self._by_key: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for value, names in owners.items():
            self._by_key.setdefault(value[:_KEY], []).append((value, tuple(names)))
        self._lengths = sorted({len(key) for key in self._by_key}, reverse=True)

    def find(self, text: str) -> list[Found]:
        """The demos of a text in their order, each example once."""
        spans = self._spans(text)
        bounds = [*(start for start, _, _ in spans[1:]), len(text)]
        return [
            found
            for (start, end, name), bound in zip(spans, bounds, strict=False)
            if (found := self._judge(text, start, end, bound, name))
        ]

    def _spans(self, text: str) -> list[tuple[int, int, str]]:
        """Where the input values of one example stand together: start, end, example.

        A value may belong to several examples (a shared article); those that stand beside it tell which is meant.
        """
        groups: list[_Group] = []
        reached = 0
        for match in _START.finditer(text):
            at = match.start()
            hit = self._at(text, at) if at >= reached else None
            if hit is None:
                continue
            value, names = hit
            reached = at + len(value)
            last = groups[-1] if groups else None
            common = [name for name in last.names if name in names] if last and value not in last.values else []
            if last and common:
                last.names, last.end = common, reached
                last.values.add(value)
            else:
                groups.append(_Group(at, reached, list(names), {value}))
        return list({group.names[0]: (group.start, group.end, group.names[0]) for group in reversed(groups)}.values())[
            ::-1
        ]

    def _at(self, text: str, at: int) -> tuple[str, tuple[str, ...]] | None:
        for length in self._lengths:
            for value, names in self._by_key.get(text[at : at + length], ()):
                if text.startswith(value, at):
                    return value, names
        return None

    def _judge(self, text: str, start: int, end: int, bound: int, name: str) -> Found | None:
        """The demo whose value ends at `end`: its answer is in the rest of the block, or in the next one."""
        stop = _block_end(text, end, bound)
        after = text[end:stop]
        if not re.search(r"\w", after):
            stop = _block_end(text, min(stop + 2, bound), bound)
            after = text[end:stop]
        if not re.search(r"\w", after):
            return None  # an input without an answer is no demo
        correct = any(_ends_with(after, answer) for answer in self._answers[name])
        opening = text.rfind("\n\n", 0, start)
        return Found(name, correct, opening + 2 if opening >= 0 else 0, stop)


def _telling(example: Example) -> set[str]:
    """The input values that can identify an example, from their first word character on."""
    values = [text[first.start() :].rstrip() for text in example.inputs.values() if (first := _FIRST.search(text))]
    return {value for value in values if len(value) >= _KEY} or ({max(values, key=len)} if values else set())


def _ends_with(block: str, answer: str) -> bool:
    """True if the answer closes the block: in its last line, where options of the input do not stand any more."""
    answer = answer.strip()
    block = block.rstrip()
    last = block.rpartition("\n")[2]
    if not answer:
        return False
    return block.endswith(answer) or re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", last) is not None


def _block_end(text: str, start: int, bound: int) -> int:
    blank = text.find("\n\n", start, bound)
    return bound if blank < 0 else blank


def without(text: str, demos: Iterable[Found]) -> str:
    """The text with its demos taken out."""
    kept: list[str] = []
    at = 0
    for demo in demos:
        kept.append(text[at : max(at, demo.start)])
        at = max(at, demo.end)
    kept.append(text[at:])
    return "\n\n".join(part.strip() for part in kept if part.strip())
