"""The metrics that compare texts: values worked out by hand, one tricky answer a case."""

from __future__ import annotations

import pytest

from utils.metrics.bleu import Bleu
from utils.metrics.exact_match import ExactMatch
from utils.metrics.levenshtein_ratio import LevenshteinRatio
from utils.metrics.rouge_l import RougeL
from utils.metrics.token_f1 import TokenF1
from utils.records import Example


def example(target: str) -> Example:
    return Example("1", {}, target)


@pytest.mark.parametrize(
    ("target", "answer", "value"),
    [
        pytest.param("the Eiffel Tower", "Eiffel tower.", 1.0, id="case, articles and punctuation are dropped"),
        pytest.param("Paris France", "France", 2 / 3, id="half of the words: recall 1/2, precision 1"),
        pytest.param("new new york", "new york york", 2 / 3, id="a repeated word counts as often as it is shared"),
        pytest.param("Paris", "London", 0.0, id="nothing shared"),
        pytest.param("the", "a", 1.0, id="nothing is left of either"),
        pytest.param("the", "Paris", 0.0, id="nothing is left of the target"),
        pytest.param("yes", "yes they are", 0.5, id="HotpotQA's rule for yes and no is not applied"),
    ],
)
def test_token_f1(target: str, answer: str, value: float) -> None:
    assert TokenF1()(example(target), answer).value == pytest.approx(value)


def test_token_f1_names_missing_and_needless_words() -> None:
    assert (
        TokenF1()(example("Paris, France"), "It is Paris").reason
        == "expected 'Paris, France'; missing words: france; 2 needless words: it and is"
    )


@pytest.mark.parametrize(
    ("target", "answer", "value"),
    [
        pytest.param("New York", ' "new  york".\n', 1.0, id="case, blanks and outer marks"),
        pytest.param("C", "C#", 0.0, id="a sign that belongs to the name stays"),
        pytest.param("5", "-5", 0.0, id="a minus stays"),
        pytest.param("60", "60%", 0.0, id="a percent sign stays"),
        pytest.param("!!!", "...", 0.0, id="nothing but marks is compared as it stands"),
        pytest.param("Straße", "STRASSE", 1.0, id="case folding"),
        pytest.param("é", "e\u0301", 1.0, id="composed and decomposed letters"),
    ],
)
def test_exact_match(target: str, answer: str, value: float) -> None:
    assert ExactMatch()(example(target), answer).value == value


def test_exact_match_says_when_the_target_stands_among_other_words() -> None:
    assert "found it among other words" in ExactMatch()(example("Paris"), "It is Paris.").reason
    assert "found it among other words" not in ExactMatch()(example("art"), "a party").reason


def test_rouge_l_counts_the_longest_common_subsequence() -> None:
    # Lin (2004), section 3.1: three of four words in order on both sides
    found = RougeL()(example("police killed the gunman"), "police kill the bandit")
    assert found.value == pytest.approx(0.75)  # `killed` and `kill` have one stem
    assert "75% of the expected words in order" in found.reason


def test_rouge_l_of_equal_texts_is_one_in_any_script() -> None:
    assert RougeL()(example("你好"), " 你好").value == 1.0


def test_bleu_of_a_short_text_can_be_one() -> None:
    assert Bleu()(example("hello there"), "hello there").value == 1.0
    assert 0 < Bleu()(example("the cat sat on the mat"), "the cat sat on a mat").value < 1


def test_bleu_says_that_an_answer_is_too_short() -> None:
    found = Bleu()(example("the cat sat on the mat today"), "the cat sat")
    assert "too short: 3 tokens where 7 are expected" in found.reason


def test_levenshtein_ratio_counts_insertions_and_deletions() -> None:
    assert LevenshteinRatio()(example("abcd"), "abce").value == pytest.approx(1 - 2 / 8)
    assert LevenshteinRatio()(example(""), "").value == 1.0
