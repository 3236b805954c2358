"""The cross entropy of the expected answer: which token counts, what adds up, what stands for log-probabilities."""

from __future__ import annotations

import math

import pytest

from utils.metrics.cross_entropy import cross_entropy, sampled
from utils.records import Completion, Example, Score, TokenLogprob, Usage

RIGHT, WRONG = Score(1.0), Score(0.0)
LETTERS = Example("1", {}, "B", ("A", "B", "C", "D"))


def said(*tokens: tuple[str, dict[str, float]]) -> Completion:
    """An answer of tokens, each with the probabilities listed at its place (its own first)."""
    listed = tuple(
        TokenLogprob(token, math.log(chances.get(token, 0.9)), {text: math.log(p) for text, p in chances.items()})
        for token, chances in tokens
    )
    return Completion("".join(token for token, _ in tokens), Usage(1, 1), None, logprobs=listed)


def nats(example: Example, completion: Completion, score: Score = WRONG) -> float:
    value, source = cross_entropy(example, completion, score)
    assert source == "logprobs"
    return value


def test_it_is_minus_ln_p_of_the_expected_label_whatever_was_answered() -> None:
    answer = said(("A", {"A": 0.7, "B": 0.2, "C": 0.1}))
    assert nats(LETTERS, answer) == pytest.approx(-math.log(0.2))


def test_tokens_that_differ_in_blanks_and_case_add_up() -> None:
    answer = said((" B", {" B": 0.4, "B": 0.2, "b": 0.1, "▁B": 0.1, "A": 0.2}))
    assert nats(LETTERS, answer, RIGHT) == pytest.approx(-math.log(0.8))


def test_a_label_that_is_not_listed_has_one_in_ten_thousand() -> None:
    assert nats(LETTERS, said(("A", {"A": 0.9, "C": 0.1}))) == pytest.approx(9.2103, abs=1e-4)


def test_after_reasoning_the_last_label_is_the_answer() -> None:
    answer = said(("A", {"A": 0.9}), (" is", {}), (" wrong", {}), (":", {}), (" B", {" B": 0.6, " A": 0.4}))
    assert nats(LETTERS, answer, RIGHT) == pytest.approx(-math.log(0.6))


def test_an_article_is_no_label() -> None:
    answer = said(("It", {"It": 0.7, "B": 0.3}), (" is", {}), (" a", {" a": 0.9}), (" star", {}))
    assert nats(LETTERS, answer) == pytest.approx(-math.log(0.3))


def test_prose_without_a_label_is_no_knowledge_of_it() -> None:
    assert nats(LETTERS, said(("The", {"The": 0.9}), (" second", {}))) == pytest.approx(9.2103, abs=1e-4)


def test_the_chosen_token_counts_even_if_the_provider_does_not_list_it() -> None:
    answer = Completion("B", Usage(1, 1), None, logprobs=(TokenLogprob("B", math.log(0.8), {"A": math.log(0.2)}),))
    assert nats(LETTERS, answer, RIGHT) == pytest.approx(-math.log(0.8))


def test_a_right_answer_of_several_tokens_has_the_mean_of_its_tokens() -> None:
    example = Example("1", {}, "New York")
    answer = said(("Answer", {}), (":", {}), (" New", {" New": 0.5}), (" York", {" York": 0.8}))
    assert nats(example, answer, RIGHT) == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


def test_a_wrong_answer_of_several_tokens_counts_where_the_two_part() -> None:
    example = Example("1", {}, "New York")
    answer = said(("Answer", {}), (":", {}), (" New", {" New": 0.9}), (" Delhi", {" Delhi": 0.7, " York": 0.2}))
    assert nats(example, answer) == pytest.approx(-math.log(0.2))
    assert nats(example, said((" Boston", {" Boston": 0.7, " Paris": 0.2}))) == pytest.approx(9.2103, abs=1e-4)


def test_a_wrong_label_of_several_tokens_is_found_in_the_answer() -> None:
    example = Example("1", {}, "not harmful", ("harmful use", "not harmful"))
    answer = said(("I", {}), (" say", {}), (" harmful", {" harmful": 0.6, " not": 0.3}), (" use", {}))
    assert nats(example, answer) == pytest.approx(-math.log(0.3))


@pytest.mark.parametrize(("score", "value"), [(RIGHT, 0.288), (WRONG, 1.386), (Score(0.4), 1.386)])
def test_without_log_probabilities_one_sample_stands_for_them(score: Score, value: float) -> None:
    found, source = cross_entropy(LETTERS, Completion("B", Usage(1, 1), None), score)
    assert source == "samples"
    assert found == pytest.approx(value, abs=5e-4)


def test_more_samples_say_more() -> None:
    assert sampled(5, 5) < sampled(1, 1) < sampled(0, 1) < sampled(0, 5)


def test_rounding_never_makes_it_negative() -> None:
    assert nats(LETTERS, said(("B", {"B": 0.7, " B": 0.4})), RIGHT) == 0.0
