"""Operators on text: nothing with a placeholder is touched, and nothing breaks on little text."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers import text_operators as operators
from utils.prompt import Prompt

FIRST = Prompt(system="Think first. Then check it, and be brief. Answer now.", user="{question}")
SECOND = Prompt(system="Be kind. Read all. Say the letter.", user="Q: {question}")
TEXTS = st.text(alphabet="abc ABC.!?,\n{}", max_size=60)


@given(TEXTS)
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(operators.sentences(text)) == text


@given(TEXTS, TEXTS, st.integers(0, 50))
def test_no_text_breaks_an_operator(one: str, other: str, seed: int) -> None:
    rng = Random(seed)
    prompt = Prompt(system=one, user="{question}")
    child = operators.crossover(prompt, Prompt(system=other, user="{question}"), rng)
    for operator in (operators.structural, operators.swap_words):
        child = operator(child, rng)
    assert child.placeholders >= {"question"}


@pytest.mark.parametrize("seed", range(20))
def test_a_crossover_has_the_head_of_one_parent_and_the_tail_of_the_other(seed: int) -> None:
    child = operators.sentences(operators.crossover(FIRST, SECOND, Random(seed)).system)
    assert child[0] == "Think first. "
    assert child[-1] == "Say the letter."
    assert len(child) == 3


def test_of_single_sentences_words_are_crossed() -> None:
    child = operators.crossover(Prompt(system="answer the question"), Prompt(system="say one letter"), Random(1))
    assert child.system in ("answer one letter", "answer the letter")


def test_of_single_words_the_first_parent_is_copied() -> None:
    assert operators.crossover(Prompt(system="Answer."), Prompt(system="Speak."), Random(1)).system == "Answer."


def test_the_template_of_the_input_is_the_first_parents() -> None:
    assert operators.crossover(FIRST, SECOND, Random(1)).user == "{question}"


@pytest.mark.parametrize("seed", range(30))
def test_sentences_with_placeholders_stay_where_they_are(seed: int) -> None:
    prompt = Prompt(user="Read this. Think hard.\n{question}\nAnswer it, and be brief.")
    for operator in (operators.structural, operators.swap_words):
        assert "\n{question}\n" in operator(prompt, Random(seed)).user


def test_a_structural_mutation_shuffles_merges_or_splits() -> None:
    prompt = Prompt(system="Think first. Check it, and be brief.")
    seen = {operators.structural(prompt, Random(seed)).system for seed in range(60)}
    assert "Check it, and be brief. Think first." in seen
    assert "Think first, and check it, and be brief." in seen
    assert "Think first. Check it. Be brief." in seen


def test_two_words_change_places() -> None:
    assert operators.swap_words(Prompt(system="think hard"), Random(1)).system == "hard think"


def test_a_word_is_replaced_in_its_sentence_alone() -> None:
    prompt = Prompt(system="Be short. Be kind to the reader. Be kind.")
    changed = operators.replace_word(prompt, "system", "Be kind to the reader.", "kind", "good")
    assert changed.system == "Be short. Be good to the reader. Be kind."


def test_a_prompt_without_words_offers_none() -> None:
    assert operators.pick_word(Prompt(user="{question}"), Random(1)) is None


def test_equal_prompts_have_no_diversity_and_strangers_much() -> None:
    assert operators.diversity([FIRST, FIRST]) == 0
    assert operators.diversity([FIRST]) == 0
    assert operators.diversity([Prompt(system="a" * 20), Prompt(system="b" * 20)]) > 0.7
