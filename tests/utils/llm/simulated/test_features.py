"""The detectors read what the lexicon says, and nothing that a person would not write."""

from __future__ import annotations

import pytest

from utils.llm.simulated.draws import Stream
from utils.llm.simulated.editing import paraphrase
from utils.llm.simulated.features import is_gibberish, read_instructions, read_sentence, sentences
from utils.llm.simulated.lexicon import (
    CHECKING,
    COMPLAINTS,
    FORMAT,
    GENERAL,
    IRRELEVANT,
    PADDING,
    REASONING,
    SKILLS,
    TASK,
    Cue,
    Form,
)

FORMATS = [(form, sentence) for form, group in FORMAT.items() for sentence in group]
CUES = [(cue, sentence) for cue, group in GENERAL.items() for sentence in group]
CUES += [(Cue.TASK, sentence) for group in TASK.values() for sentence in group]
RULES = [(skill.name, sentence) for skill in SKILLS for sentence in (*skill.rules, *skill.hints)]


def test_every_format_phrasing_is_read_as_its_form_and_as_nothing_else():
    for form, sentence in FORMATS:
        features = read_instructions(sentence, form)
        assert (features.format, features.contradiction, features.cues, features.skills) == (
            True,
            False,
            frozenset(),
            frozenset(),
        ), sentence


def test_every_cue_phrasing_is_read_as_exactly_its_cue():
    for cue, sentence in CUES:
        reading = read_sentence(sentence)
        assert (reading.cues, reading.skills, reading.formats) == ({cue}, frozenset(), frozenset()), sentence


def test_every_rule_and_hint_names_exactly_its_skill():
    for name, sentence in RULES:
        reading = read_sentence(sentence)
        assert (reading.skills, reading.cues, reading.formats) == ({name}, frozenset(), frozenset()), sentence


def test_what_does_not_matter_carries_no_cue():
    for sentence in (*IRRELEVANT, *PADDING, *REASONING, *CHECKING):
        assert read_sentence(sentence).count == 0, sentence


def test_there_are_many_phrasings_of_everything():
    assert all(len(set(group)) >= 8 for group in (*FORMAT.values(), *TASK.values(), *GENERAL.values()))
    assert all(len(set(skill.rules)) >= 6 and len(set(skill.hints)) >= 4 for skill in SKILLS)
    assert set(COMPLAINTS) == set(Form)


def test_a_paraphrase_keeps_what_a_sentence_says():
    for number, (form, sentence) in enumerate(FORMATS):
        said = paraphrase(sentence, Stream("p", str(number)), form)
        assert form in read_sentence(said).formats, (sentence, said)
    for number, (cue, sentence) in enumerate(CUES):
        said = paraphrase(sentence, Stream("q", str(number)), Form.LETTER)
        assert cue in read_sentence(said).cues, (sentence, said)


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        # the three prompts of the seed document, which scored 0.9, 0.03 and 0.4
        (
            "Reflect, comprehend, and sort the proposed evidence. Pick out the correct solution from A, B, C, or D. "
            "Release your evaluation by using just the solitary letter that encompasses the position of the correct "
            "alternative.",
            Form.LETTER,
            True,
        ),
        (
            "Detailed in the scenario are four possible answers, A, B, C, or D. Decipher which choice is most "
            "applicable based on the given context and information.",
            Form.LETTER,
            False,
        ),
        (
            "Answer the question based on the article. Your only choices of answers are A, B, C, D",
            Form.LETTER,
            True,
        ),
        ("Answer with the letter of the right option.", Form.LETTER, True),
        ("Do not answer with a letter.", Form.LETTER, False),
        ("Give the result after ####.", Form.NUMBER, True),
        ("Solve the math problem.", Form.NUMBER, False),
        ("Summarize the article.", Form.SUMMARY, False),
        ("Summarize it in three sentences.", Form.SUMMARY, True),
    ],
)
def test_format_instructions_as_people_write_them(text, form, expected):
    assert read_instructions(text, form).format is expected


def test_naming_the_labels_is_a_format_instruction_only_with_a_verb_of_saying():
    labels = ("no", "yes")
    assert read_instructions("Is it hallucinated? Say yes or no.", Form.LABEL, labels).format
    assert not read_instructions("Decide whether yes or no is right.", Form.LABEL, labels).format


def test_formats_that_disagree_are_a_contradiction():
    agree = "Reply with only the letter. Think step by step."
    assert not read_instructions(agree, Form.LETTER).contradiction
    assert read_instructions(f"{agree} Answer in full sentences.", Form.LETTER).contradiction
    assert read_instructions(f"{agree} Put the final number after ####.", Form.LETTER).contradiction
    assert read_instructions(f"{agree} Do not reply with a letter.", Form.LETTER).contradiction
    assert read_instructions("Think step by step. Do not explain your reasoning.", Form.LETTER).contradiction
    assert not read_instructions("Reply with only the letter, without any reasoning.", Form.LETTER).contradiction
    assert not read_instructions("Reply with the letter. Do not write anything else.", Form.LETTER).contradiction


@pytest.mark.parametrize(
    "text",
    [
        "zxqv blorf mnkp wuzzle trpq",
        "purple banana quickly seven mountain chair glass running hello sunny window table fork",
        "fjdksl aowie qpwo xmcnv slkdfj",
    ],
)
def test_gibberish_is_recognised(text):
    assert is_gibberish(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Q:",
        "Decide whether the central bank statement is hawkish or dovish.",
        "Is the answer to the medical question hallucinated? Say yes or no.",
        "Paragraphs:\n{context}\n\nQuestion: {question}",
        *(sentence for _, sentence in FORMATS),
    ],
)
def test_ordinary_prompts_are_no_gibberish(text):
    assert not is_gibberish(text)


def test_a_sentence_that_says_too_much_says_nothing():
    assert read_sentence("Verify the units and the dates and the totals and each cause and every condition.").count == 0
    assert sentences("Use 3.5 units. Why?\nEnd") == ["Use 3.5 units.", "Why?", "End"]
