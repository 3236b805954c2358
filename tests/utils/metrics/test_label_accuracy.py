"""One tricky answer a case; the id says what makes it tricky."""

from __future__ import annotations

import pytest

from utils.metrics.label_accuracy import LabelAccuracy
from utils.records import Example, Score

ELECTION = ("Harmful Application", "Harmless Application")
VERDICT = ("hallucinated", "faithful")
YES_NO = ("yes", "no")


def score(labels: tuple[str, ...], target: str, answer: str) -> Score:
    return LabelAccuracy()(Example("1", {}, target, labels), answer)


@pytest.mark.parametrize(
    ("labels", "target", "answer"),
    [
        pytest.param(ELECTION, "Harmless Application", "harmless application.", id="another case"),
        pytest.param(ELECTION, "Harmless Application", "harmless-application", id="another separator"),
        pytest.param(("harm", "harm none"), "harm none", "harm none", id="the longest label wins"),
        pytest.param(
            VERDICT, "faithful", "It is not a hallucinated answer, it is faithful.", id="the other is negated"
        ),
        pytest.param(VERDICT, "hallucinated", "faithful, or rather\nhallucinated", id="the last line wins"),
        pytest.param(VERDICT, "hallucinated", "Answer: hallucinated\nIt would be faithful if", id="announced wins"),
        pytest.param(VERDICT, "hallucinated", "The verdict is **hallucinated**, not faithful", id="announced, in bold"),
        pytest.param(
            ("not hallucinated", "hallucinated"), "not hallucinated", "Not hallucinated", id="a negated label"
        ),
        pytest.param(YES_NO, "yes", "Yes, there is no doubt.", id="no as a word after the opening label"),
        pytest.param(YES_NO, "yes", "There is no doubt.\nYes", id="no as a word before the last line"),
        pytest.param(YES_NO, "no", "No", id="the label alone"),
        pytest.param((), "Relevant", "relevant", id="without labels the target is the one label"),
    ],
)
def test_the_one_label_given_scores_one(labels: tuple[str, ...], target: str, answer: str) -> None:
    assert score(labels, target, answer).value == 1.0


@pytest.mark.parametrize(
    ("labels", "target", "answer", "reason"),
    [
        pytest.param(ELECTION, ELECTION[0], "Harmless Application", "found Harmless Application", id="the other label"),
        pytest.param(ELECTION, ELECTION[0], "Harmful", "found 'Harmful'", id="part of a label is none"),
        pytest.param(VERDICT, "hallucinated", "not hallucinated", "found 'not hallucinated'", id="negated"),
        pytest.param(VERDICT, "hallucinated", "It isn't really hallucinated", "expected one of", id="negated by n't"),
        pytest.param(VERDICT, "hallucinated", "non-hallucinated", "expected one of", id="negated by non"),
        pytest.param(VERDICT, "hallucinated", "unhallucinated", "expected one of", id="inside another word"),
        pytest.param(YES_NO, "no", "I know nothing", "expected one of yes and no", id="no inside other words"),
        pytest.param(YES_NO, "yes", "Yes or no", "found yes and no", id="both"),
        pytest.param(YES_NO, "yes", "yes, no", "found yes and no", id="both, after a comma"),
        pytest.param(YES_NO, "yes", "Answer: yes or no", "found yes and no", id="both, announced"),
        pytest.param(YES_NO, "yes", "Answer: yes\nAnswer: no", "found yes and no", id="a change of mind"),
        pytest.param(YES_NO, "yes", "", "found no text", id="no text"),
    ],
)
def test_anything_else_scores_zero_with_a_reason(
    labels: tuple[str, ...], target: str, answer: str, reason: str
) -> None:
    found = score(labels, target, answer)
    assert found.value == 0.0
    assert reason in found.reason


def test_own_labels_win_over_the_examples_choices() -> None:
    metric = LabelAccuracy(labels=("relevant", "irrelevant"))
    example = Example("1", {}, "irrelevant", ("yes", "no"))
    assert metric(example, "irrelevant").value == 1.0
    assert "relevant and irrelevant" in metric(example, "no").reason
