"""Whether the number that an answer ends with equals the expected one.

The number is the one right after the last `####` (GSM8K's own marker; openai/grade-school-math, `dataset.py`, reads
`#### (\\-?[0-9\\.\\,]+)`), or else the last number of the text. Decided, with a test each:

- Equality is exact and by value: 42 = 42.0 = 42.00; 0.333 is not 1/3.
- Thousands separators (`,`, thin and no-break spaces, LaTeX `{,}`), currency signs, units and `%` are dropped on both
  sides, so `60%` matches `60` and does not match `0.6`.
- `3/4`, `1 1/2` and `\\frac{3}{4}` are one number; `5/6/2020` is a date and not a fraction; `5/0` is two numbers.
- A minus sign counts where nothing precedes it: `10-5` ends with 5, `-$5` and `$-5` are minus five.
- `#### 1. Add the apples` is a numbered heading, not an answer. Digits inside a word (`H2O`) are no number.
- A decimal comma (`1,5`) is not read: it cannot be told from a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from utils.metrics.reasons import quote
from utils.records import Example, Score

_CURRENCY = r"[$€£¥₹]"
_WHOLE = r"(?:[0-9]{1,3}(?:[,\u00a0\u2009\u202f][0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
_SIGN = rf"(?:(?<![\w)\]])[-−](?:\\?{_CURRENCY})?|{_CURRENCY}[-−])?"
NUMBER = re.compile(
    rf"(?<![^\W_]){_SIGN}(?<![^\W_])"
    r"(?:(?:(?P<mixed>[0-9]{1,9})[ ])?(?<![0-9]/)(?P<over>[0-9]{1,9})/(?P<under>0*[1-9][0-9]{0,8})(?![0-9/]|\.[0-9])"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[+-]?[0-9]{{1,3}})(?![0-9]))?)"
)
# after the marker come blanks, emphasis, currency, brackets; then a number that does not number a heading
MARKED = re.compile(
    rf"####[\s*:=~≈\\(\[{{]{{0,12}}(?:{_CURRENCY}(?=[0-9.]))?(?P<number>(?>{NUMBER.pattern}))(?![.)][ \t]+\w)"
)
_FRAC = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_MOST_DIGITS = 300  # longer runs are noise, and Python refuses to convert very long ones


@dataclass(frozen=True)
class NumericMatch:
    """1 if the answer's final number equals the target's, else 0."""

    name: ClassVar[str] = "numeric_match"

    def __call__(self, example: Example, answer: str) -> Score:
        expected = final_number(example.target)
        if expected is None:
            return Score(0.0, f"the expected answer {quote(example.target)} holds no number")
        wanted, wanted_text, _ = expected
        found = final_number(answer)
        if found is None:
            return Score(0.0, f"expected {wanted_text}, found no number", found=False)
        value, text, marked = found
        if value == wanted:
            return Score(1.0, f"found {text}, as expected")
        place = "after ####" if marked else "as the last number"
        reason = f"expected {wanted_text}, found {text} {place}"
        if any(earlier == wanted for earlier, _ in numbers(answer)):
            reason += f"; {wanted_text} stands elsewhere in the answer, which should end with it"
        return Score(0.0, reason)


def final_number(text: str) -> tuple[Fraction, str, bool] | None:
    """The number an answer ends with, as it is written, and whether `####` marked it; None if there is none."""
    text = _plain(text)
    for match in reversed(list(MARKED.finditer(text))):
        if (value := _value(match)) is not None:
            return value, match["number"].strip(), True
    found = numbers(text)
    return (*found[-1], False) if found else None


def numbers(text: str) -> list[tuple[Fraction, str]]:
    """Every number of a text, by value and as it is written."""
    pairs = ((_value(match), match[0].strip()) for match in NUMBER.finditer(_plain(text)))
    return [(value, written) for value, written in pairs if value is not None]


def _plain(text: str) -> str:
    return _FRAC.sub(r"\1/\2", text.replace("{,}", ",").replace("\\,", ","))


def _value(match: re.Match[str]) -> Fraction | None:
    if match["over"]:
        size = Fraction(int(match["over"]), int(match["under"])) + int(match["mixed"] or 0)
    else:
        digits = re.sub(r"[,\s]", "", match["decimal"])
        if len(digits) > _MOST_DIGITS:
            return None
        size = Fraction(digits if digits[0] != "." else f"0{digits}") * Fraction(10) ** int(match["exponent"] or 0)
    head = match["number"] if "number" in match.re.groupindex else match[0]
    return -size if re.match(rf"{_CURRENCY}?[-−]", head) else size
