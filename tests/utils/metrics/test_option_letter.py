"""One tricky answer a case; the id says what makes it tricky."""

from __future__ import annotations

import pytest

from utils.metrics.option_letter import OptionLetter
from utils.records import Example, Score

LETTERS = ("A", "B", "C", "D")


def score(answer: str, target: str = "B", choices: tuple[str, ...] = LETTERS) -> Score:
    return OptionLetter()(Example("1", {}, target, choices), answer)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("B", id="the letter alone"),
        pytest.param("b", id="a lower-case letter alone"),
        pytest.param(" (B)\n", id="in brackets"),
        pytest.param("B.", id="with a full stop"),
        pytest.param("**B**", id="in bold"),
        pytest.param("$B$", id="as a formula"),
        pytest.param("Answer: B", id="announced"),
        pytest.param("answer: b", id="announced in lower case"),
        pytest.param("Answer:\n\nB", id="announced on the line above"),
        pytest.param("**Answer:** B", id="the announcement in bold"),
        pytest.param("The answer is B", id="announced in a sentence"),
        pytest.param("The correct answer to the question is (B).", id="words between announcement and letter"),
        pytest.param("The best option is most likely B", id="hedged"),
        pytest.param("<answer>B</answer>", id="in a tag"),
        pytest.param("\\boxed{\\text{B}}", id="boxed"),
        pytest.param("B) the moon", id="letter and option text"),
        pytest.param("B\n\nA is too cold.", id="letter, then prose that names another"),
        pytest.param("A is too cold.\nB", id="prose that names another, then the letter"),
        pytest.param("A. ice\nB. fire\nAnswer: B", id="the options repeated before the announcement"),
        pytest.param("Answer: B. A is wrong.", id="another letter after the announced one"),
        pytest.param("Answer: B, C is wrong.", id="a comma that begins a new statement"),
        pytest.param("The answer is not A. The answer is B.", id="a denied letter is not announced"),
        pytest.param("I would go with option B here.", id="marked as an option in prose"),
    ],
)
def test_a_clear_pick_scores_one(answer: str) -> None:
    assert score(answer) == Score(1.0, "found B, as expected")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param("C", "expected B, found C", id="another letter"),
        pytest.param("A because it is cold", "found prose with letter A", id="a bare letter opening a sentence"),
        pytest.param("Answer: A because it is cold", "expected B, found A", id="no article stands before because"),
        pytest.param("A or B", "expected a single letter among A-D, found A and B", id="two letters"),
        pytest.param("Answer: either B or C", "expected a single letter among A-D, found B and C", id="two announced"),
        pytest.param("A. ice\nB. fire\nC. air", "found A, B and C", id="the options repeated and none chosen"),
        pytest.param("Answer: A ... no. Answer: B", "found A and B", id="a change of mind"),
        pytest.param("A star is hot", "found prose with letter A", id="the article opens a sentence"),
        pytest.param("The answer is a star", "found 'The answer is a star', which names none", id="article, announced"),
        pytest.param("Answer: A star", "found prose with letter A", id="a capital article, announced"),
        pytest.param("Answer: e.g. this", "which names none", id="an abbreviation is no letter"),
        pytest.param("Vitamin C and plan A", "found prose with letters A and C", id="loose letters in prose"),
        pytest.param("I would say B", "expected a single letter among A-D, found prose with letter B", id="loose B"),
        pytest.param("the moon", "found 'the moon', which names none", id="the option's text alone"),
        pytest.param("AB", "found 'AB', which names none", id="letters run together"),
        pytest.param("I'd say so", "which names none", id="the d of a contraction"),
        pytest.param("E", "which names none", id="a letter that is no option"),
        pytest.param(" \n", "found no text", id="no text"),
    ],
)
def test_anything_else_scores_zero_with_a_reason(answer: str, reason: str) -> None:
    found = score(answer)
    assert found.value == 0.0
    assert reason in found.reason


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        pytest.param("3", 1.0, id="the number alone"),
        pytest.param("Answer: 3", 1.0, id="announced"),
        pytest.param("1. Read\n2. Think\nAnswer: 3", 1.0, id="numbered steps before the announcement"),
        pytest.param("Answer: 2", 0.0, id="another number"),
        pytest.param("The answer is 3.5", 0.0, id="a decimal is no option"),
        pytest.param("3 apples", 0.0, id="a count is no option"),
        pytest.param("C", 0.0, id="a letter where numbers are the options"),
    ],
)
def test_options_may_be_numbers(answer: str, value: float) -> None:
    assert score(answer, "3", ("1", "2", "3", "4")).value == value


def test_without_choices_the_target_tells_letters_from_numbers() -> None:
    assert score("E", "E", ()).value == 1.0
    assert score("4", "4", ()).value == 1.0
    assert "A-E" in score("?", "B", ()).reason


def test_the_pronoun_is_no_option() -> None:
    options = tuple("ABCDEFGHIJ")
    assert score("The answer is: I think none", "I", options).value == 0.0
    assert score("Answer: I", "I", options).value == 1.0
