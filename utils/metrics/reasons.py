"""The words of a metric's reason: short quotes and lists, the same in every metric.

A reason is read by an editor (a model or a person) that sees many of them, so a quote is one line and has a limit.
"""

from __future__ import annotations

from collections.abc import Iterable

QUOTE_CHARACTERS = 80


def quote(text: str, limit: int = QUOTE_CHARACTERS) -> str:
    """The text on one line in quotes, cut at `limit` characters.

    >>> quote("two\\n lines")
    "'two lines'"
    """
    head = text[: 20 * limit]  # an answer may hold megabytes; blanks in front are all that is cut too early
    line = " ".join(head.split())
    cut = len(line) > limit or len(head) < len(text)
    return f"'{line[:limit]}…'" if cut else f"'{line}'"


def enumerate_words(words: Iterable[str], limit: int = 8) -> str:
    """The words as a list in a sentence, the first `limit` of them.

    >>> enumerate_words(["A", "B", "C"])
    'A, B and C'
    """
    items = list(words)
    if len(items) > limit:
        return f"{', '.join(items[:limit])} and {len(items) - limit} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def clip(value: float) -> float:
    """The value within [0, 1]; library scores leave it by a rounding error."""
    return min(1.0, max(0.0, float(value)))
