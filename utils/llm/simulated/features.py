"""What a simulated task model notices in a prompt: transparent detectors, and nothing else.

A prompt's instructions (inputs and demos taken out) are split into sentences. Only a natural sentence can carry a cue:
it has function words, and it does not cram many cues together. So a bag of cue words earns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from utils.llm.simulated.lexicon import (
    CHECKING,
    COMMON,
    FORMAT,
    GENERAL,
    IRRELEVANT,
    PADDING,
    REASONING,
    SKILLS,
    TASK,
    Cue,
    Form,
    Skill,
)

MAX_CUES = 3  # in one sentence; more is stuffing
MAX_SENTENCES = 300  # of a prompt are read
MIN_FUNCTION_SHARE = 0.15  # of the words of a natural sentence
MIN_KNOWN_SHARE = 0.5  # of all words; below it a text is gibberish

_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?![\s\"')\]]|$)[^.!?\n]*)*[.!?]*[\"')\]]*")

_FUNCTION_WORDS = """
a an the of to in on at by for with from into as is are was were be been it its this that these those and or but not
no you your he his she her they their them we our i me my who what which whose when where how why if then than so do
does did must should will would can could may might has have had only just one before after until while all each every
any some there here let let's don't exactly without
"""
_FUNCTION = frozenset(_FUNCTION_WORDS.split())

_SAY = (
    r"\b(?:answers?|reply|replies|respond|responses?|output|give|write|return|state|print|end|finish|close|conclude|provide|"
    r"release|submit|produce|use|using|name|say|put|keep|choices?)\b"
)
_ABCD = r"\ba\b[\s,/]*(?:or\s+)?\bb\b(?:[\s,/]*(?:or\s+|and\s+)?\b[c-h]\b)*"
_ONLY = r"\b(?:only|just|exactly|single|one of|solely|nothing (?:else|more)|alone)\b"

_FORMAT: dict[Form, tuple[re.Pattern[str], ...]] = {
    Form.LETTER: (
        re.compile(rf"{_SAY}.*\bletters?\b|\bletters?\b.*{_SAY}|\b(?:option|choice) (?:number|label)\b"),
        re.compile(rf"(?=.*{_ABCD})(?=.*{_ONLY})(?=.*{_SAY})"),
        re.compile(rf"\b(?:answer|reply|respond|output|return|print)(?: with)?:? {_ABCD}"),
    ),
    Form.LABEL: (
        re.compile(rf"{_SAY}.*\b(?:labels?|class name|category name)\b|\blabels?\b.*{_SAY}"),
        re.compile(rf"{_SAY}.*\b(?:one|single) word\b"),
    ),
    Form.NUMBER: (
        re.compile(r"####"),
        re.compile(
            rf"(?=.*{_SAY})(?=.*\b(?:number|numeric|numerical|digits|integer)\b)"
            r"(?=.*\b(?:only|just|final|last|end|single|alone|nothing|exactly)\b)"
        ),
    ),
    Form.SHORT: (
        re.compile(
            rf"(?=.*{_SAY})(?=.*(?:\bshortest\b|\b(?:short|brief|concise|bare) (?:answer|phrase|span|name)\b"
            r"|\bfew words\b|\bexact (?:words?|phrase|span)\b|\b(?:only|just) the (?:\w+ )?answer\b|\banswer only\b"
            r"|\bnothing (?:else|more)\b|\bbare answer\b|\bno explanation\b|\bone or two words\b"
            r"|\bwithout (?:any )?explanation\b))"
        ),
    ),
    Form.SUMMARY: (
        re.compile(
            r"\b(?:one|two|three|four|five|few|handful of|\d+)(?:\s+(?:or|to|-)\s+\w+)?(?: \w+)? "
            r"(?:sentences?|bullet|bullets|lines)\b"
            r"|\bhighlights\b|\bbullet points?\b|\b\d+ words\b"
        ),
    ),
}
# the opposite of a format: with a matching instruction in the same prompt, the two disagree
_VERBOSE = re.compile(
    rf"{_SAY}.*\b(?:(?:full|complete) sentences?|(?:long|detailed) (?:paragraphs?|essay|answer)|an essay|"
    r"(?:a|two|several) (?:full )?paragraphs?|at least \w+ (?:words|sentences))\b"
)
_TINY = re.compile(rf"{_SAY}.*\b(?:single|one) (?:word|letter|number)\b")
_OPPOSITE: dict[Form, re.Pattern[str]] = {
    Form.LETTER: _VERBOSE,
    Form.LABEL: _VERBOSE,
    Form.NUMBER: _VERBOSE,
    Form.SHORT: _VERBOSE,
    Form.SUMMARY: _TINY,
}
_FOREIGN: dict[Form, tuple[Form, ...]] = {
    Form.LETTER: (Form.NUMBER,),
    Form.LABEL: (Form.NUMBER, Form.LETTER),
    Form.NUMBER: (Form.LETTER,),
    Form.SHORT: (Form.NUMBER, Form.LETTER),
    Form.SUMMARY: (Form.NUMBER, Form.LETTER),
}
_NOT = r"\b(?:do not|don't|never|avoid|without|no need to|refrain from)\b"
_NOT_FORMAT = re.compile(
    rf"\b(?:do not|don't|never)\b (?:\w+ ){{0,2}}?{_SAY}"
    r"(?!.*\b(?:only|other|anything|else|more|besides|full|long|except|until)\b)"
)

_GENERAL: dict[Cue, re.Pattern[str]] = {
    Cue.TASK: re.compile(
        r"\banswer (?:the|this|these|each|my|following|a) |\banswer (?:questions|based)\b|\bchoose (?!to\b)|"
        r"\b(?:solve|decide|determine|judge|select|pick|classify|summari[sz]e|identify|decipher|evaluate|assess)\b|"
        r"\bfind (?:the|out|what)\b|\bwork out (?:the|what)\b|\btell whether\b|\bsort the\b|\bwrite a summary\b|"
        r"^(?:is|are|was|were|does|do|did|has|have|can|which|what|who)\b.*\?$"
    ),
    Cue.COT: re.compile(
        r"\bstep[- ]by[- ]step\b|\bone step at a time\b|\bin small steps\b|\bwork through\b|"
        r"\b(?:think|reason|talk|walk)(?:ing)? (?:it |this |the \w+ )?(?:through|carefully|aloud)\b|"
        r"\b(?:show|explain|write out|lay out|give|state) your (?:work|working|reasoning|thinking)\b|"
        r"\bbreak (?:it|this|the \w+) (?:down|into)\b|\breason (?:first|before)\b"
    ),
    Cue.VERIFY: re.compile(
        r"\bdouble[- ]check\b|\bverify\b|\bre-?read\b|\bconfirm\b|\breview (?:your|the|each)\b|"
        r"\bcheck (?:your|that|it|each|the)\b"
    ),
    Cue.ROLE: re.compile(
        r"\b(?:you are|you're|act as|acting as|imagine you are|take the role of)\b.*"
        r"\b(?:expert|assistant|analyst|teacher|examiner|specialist|scientist|professional|editor|solver|tutor|researcher|"
        r"scholar|journalist|moderator|checker|mathematician)s?\b"
    ),
    Cue.CONCISE: re.compile(
        r"\bbe (?:very )?(?:brief|concise|terse|short)\b|\bconcisely\b|\bbriefly\b|"
        r"\bkeep (?:it|this|your (?:reasoning|answer|explanation|response|reply)) (?:short|brief|concise)\b"
    ),
}
_NOT_COT = re.compile(rf"{_NOT}.*(?:step|think|reason|explain|explanation|working)")


@dataclass(frozen=True)
class Features:
    """What was noticed in the instructions of a prompt."""

    format: bool = False  # an instruction that fits the answer form
    cues: frozenset[Cue] = frozenset()
    skills: frozenset[str] = frozenset()  # names of the skills whose rule is stated
    contradiction: bool = False
    gibberish: bool = False
    hash_mark: bool = False  # the prompt asks for ####
    tokens: int = 0  # of the instructions, demos not counted


@dataclass(frozen=True)
class Reading:
    """What one sentence says."""

    formats: frozenset[Form] = frozenset()
    cues: frozenset[Cue] = frozenset()
    skills: frozenset[str] = frozenset()
    opposes: frozenset[Form] = frozenset()  # forms that this sentence works against
    quiet: bool = False  # tells the model not to reason aloud

    @property
    def count(self) -> int:
        return bool(self.formats) + len(self.cues) + len(self.skills)


NOTHING = Reading()


def sentences(text: str) -> list[str]:
    """The sentences of a text in their order; a line break ends a sentence, a point inside a word does not.

    >>> sentences("Use 3.5 units. Why?\\nEnd")
    ['Use 3.5 units.', 'Why?', 'End']
    """
    return [found for match in _SENTENCE.finditer(text) if (found := match[0].strip())]


def words(text: str) -> list[str]:
    """The words of a text in lower case, placeholders left out."""
    return [word.lower() for word in _WORD.findall(_PLACEHOLDER.sub(" ", text))]


def is_natural(tokens: Sequence[str]) -> bool:
    """True for the words of something a person would write: function words hold it together."""
    if len(tokens) < 2 or len(tokens) > 80:
        return False
    return sum(token in _FUNCTION for token in tokens) >= MIN_FUNCTION_SHARE * len(tokens)


@lru_cache(maxsize=8192)
def read_sentence(sentence: str, labels: tuple[str, ...] = ()) -> Reading:
    """What a single sentence says; nothing if it is not natural or says too much at once."""
    if not is_natural(words(sentence)):
        return NOTHING
    low = _PLACEHOLDER.sub(" ", sentence).lower().replace("’", "'")
    quiet = bool(_NOT_COT.search(low))
    formats = {form for form, patterns in _FORMAT.items() if any(pattern.search(low) for pattern in patterns)}
    if labels and re.search(_SAY, low) and sum(_names(low, label) for label in labels) >= 2:
        formats.add(Form.LABEL)
    negated = bool(_NOT_FORMAT.search(low)) and bool(formats)
    reading = Reading(
        formats=frozenset(() if negated else formats),
        cues=frozenset(
            cue for cue, pattern in _GENERAL.items() if pattern.search(low) and not (cue is Cue.COT and quiet)
        ),
        skills=frozenset(skill.name for skill in SKILLS if skill.pattern.search(low)),
        opposes=frozenset(formats if negated else (form for form in Form if _OPPOSITE[form].search(low))),
        quiet=quiet,
    )
    return NOTHING if reading.count > MAX_CUES else reading


def read_instructions(text: str, form: Form, labels: tuple[str, ...] = ()) -> Features:
    """The features of a prompt's instructions, for a task whose answers have this form."""
    readings = [read_sentence(sentence, labels) for sentence in sentences(text)[:MAX_SENTENCES]]
    formats = frozenset().union(*(reading.formats for reading in readings))
    opposed = any(form in reading.opposes for reading in readings)
    cues: frozenset[Cue] = frozenset().union(*(reading.cues for reading in readings))
    foreign = any(other in formats for other in _FOREIGN[form]) and not any(
        form in reading.formats and reading.formats & set(_FOREIGN[form]) for reading in readings
    )
    negated_cot = Cue.COT in cues and any(reading.quiet and form not in reading.formats for reading in readings)
    return Features(
        format=form in formats,
        cues=cues,
        skills=frozenset().union(*(reading.skills for reading in readings)),
        contradiction=(form in formats and (opposed or foreign)) or negated_cot,
        gibberish=is_gibberish(text),
        hash_mark="####" in text,
        tokens=count_tokens(text),
    )


def is_gibberish(text: str) -> bool:
    """True if under half the words look like English, or if hardly any of a long text is in natural sentences."""
    tokens = words(text)
    if len(tokens) < 4:
        return False
    known = sum(_looks_english(token) for token in tokens)
    if known < MIN_KNOWN_SHARE * len(tokens):
        return True
    natural = sum(len(w) for sentence in sentences(text) if is_natural(w := words(sentence)))
    return len(tokens) >= 12 and natural < 0.3 * len(tokens)


def count_tokens(text: str) -> int:
    """Tokens of a text as the simulated models count them: four characters each, rounded up."""
    return (len(text) + 3) // 4


def skills_named(text: str, skills: Iterable[Skill] = SKILLS) -> list[str]:
    """The names of the skills that a text mentions, natural or not: how evidence is read."""
    low = text.lower()
    return [skill.name for skill in skills if skill.pattern.search(low)]


def _names(low: str, label: str) -> bool:
    return re.search(rf"\b{re.escape(label.lower())}\b", low) is not None


@cache
def _vocabulary() -> frozenset[str]:
    said = [*IRRELEVANT, *PADDING, *REASONING, *CHECKING]
    for group in (*FORMAT.values(), *TASK.values(), *GENERAL.values()):
        said.extend(group)
    for skill in SKILLS:
        said.extend((*skill.rules, *skill.hints))
    return frozenset(words(COMMON + " ".join(said))) | _FUNCTION


@cache
def _trigrams() -> frozenset[str]:
    return frozenset(triple for word in _vocabulary() for triple in _split3(word))


def _split3(word: str) -> list[str]:
    framed = f"^{word}$"
    return [framed[i : i + 3] for i in range(len(framed) - 2)]


@lru_cache(maxsize=16384)
def _looks_english(word: str) -> bool:
    """In the vocabulary, or made of its letter trigrams to a good half."""
    if word in _vocabulary():
        return True
    trigrams = _split3(word)
    return len(word) > 3 and sum(trigram in _trigrams() for trigram in trigrams) >= 0.6 * len(trigrams)
