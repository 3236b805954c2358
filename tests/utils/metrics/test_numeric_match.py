"""One tricky answer a case; the id says what makes it tricky."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.metrics.numeric_match import NumericMatch
from utils.records import Example, Score

MATCH = NumericMatch()


def score(target: str, answer: str) -> Score:
    return MATCH(Example("1", {}, target), answer)


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        pytest.param("42", "7 * 6 = 42\n#### 42", id="the marker of GSM8K"),
        pytest.param("42", "#### 42\nChecked 3 times.", id="the marker wins over a later number"),
        pytest.param("42", "#### 7\nNo: #### 42", id="the last marker wins over the first"),
        pytest.param("42", "#### **$42**", id="emphasis and currency after the marker"),
        pytest.param("42", "####\n42", id="a line break after the marker"),
        pytest.param("42", "#### 1. Add the apples\n40 + 2 = 42", id="a numbered heading is no answer"),
        pytest.param("42", "#### Step 1\nSo we have 42", id="a heading with a word is no answer"),
        pytest.param("42", "First 7, then 42.", id="the last number, its full stop dropped"),
        pytest.param("42", "42.0", id="decimals are equal by value"),
        pytest.param("18\n#### 1,234", "1234", id="the target may be a whole GSM8K solution"),
        pytest.param("1234567.5", "$1,234,567.50", id="thousands separators and currency"),
        pytest.param("1234", "1\u202f234 m", id="a narrow no-break space as separator"),
        pytest.param("4200", "\\boxed{4{,}200}", id="the LaTeX thousands separator"),
        pytest.param("60", "60%", id="a percent sign is a unit"),
        pytest.param("-5", "−5", id="the typographic minus"),
        pytest.param("-5", "It is -$5.", id="a minus before the currency"),
        pytest.param("-5", "It is $-5.", id="a minus after the currency"),
        pytest.param("5", "10-5", id="a minus between numbers is a subtraction"),
        pytest.param("5", "- 5", id="a list bullet is no minus"),
        pytest.param("5", "covid-5", id="a hyphen after a word is no minus"),
        pytest.param("0.5", ".5", id="no digit before the point"),
        pytest.param("42", "so it is ...42", id="an ellipsis is no decimal point"),
        pytest.param("0.75", "3/4.", id="a fraction is one number"),
        pytest.param("1.5", "1 1/2 cups", id="a mixed number is one number"),
        pytest.param("0.75", "\\frac{3}{4}", id="a LaTeX fraction is one number"),
        pytest.param("2020", "on 5/6/2020", id="a date is no fraction"),
        pytest.param("0", "5/0", id="a division by zero is two numbers"),
        pytest.param("3000", "3e3", id="scientific notation"),
        pytest.param("5", "5kg", id="a unit without a blank"),
    ],
)
def test_equal_numbers_score_one(target: str, answer: str) -> None:
    assert score(target, answer).value == 1.0


@pytest.mark.parametrize(
    ("target", "answer", "reason"),
    [
        pytest.param("42", "41", "expected 42, found 41 as the last number", id="another number"),
        pytest.param("42", "#### 41", "expected 42, found 41 after ####", id="another number after the marker"),
        pytest.param("42", "forty-two", "expected 42, found no number", id="a number in words is none"),
        pytest.param("42", "", "expected 42, found no number", id="no text"),
        pytest.param("2", "H2O", "expected 2, found no number", id="a digit inside a word is none"),
        pytest.param("0.6", "60%", "expected 0.6, found 60 as the last number", id="percent is not converted"),
        pytest.param("0.333", "1/3", "expected 0.333, found 1/3 as the last number", id="equality is exact"),
        pytest.param("1.5", "1,5", "expected 1.5, found 5 as the last number", id="a decimal comma is a list"),
        pytest.param(
            "42",
            "42, as 6 * 7 shows",
            "expected 42, found 7 as the last number; 42 stands elsewhere in the answer, which should end with it",
            id="the right number is not the last",
        ),
        pytest.param("none", "42", "the expected answer 'none' holds no number", id="a row without a number"),
    ],
)
def test_other_answers_score_zero_with_a_reason(target: str, answer: str, reason: str) -> None:
    assert score(target, answer) == Score(0.0, reason, found="found no number" not in reason)


def test_a_run_of_digits_beyond_reason_is_no_number() -> None:
    assert score("42", "9" * 5000) == Score(0.0, "expected 42, found no number", found=False)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "{}.0", "so {}.", "#### {:,}", "**{}**"]))
def test_an_integer_in_any_dress_matches_itself(number: int, dress: str) -> None:
    assert score(str(number), dress.format(number)).value == 1.0
