"""What the simulated optimizer model sees: the text of its request, and nothing else.

The editor shows data in tags (`<prompt>`, `<failure>`, `<example>`), with `</` inside data written `<\\/`. What stands
outside of them is the instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from utils.llm.simulated.features import skills_named
from utils.llm.simulated.lexicon import COMPLAINTS, NO_REASONING, SKILLS, TOO_LONG, Form
from utils.records import Request

ROLES = ("system", "user", "output")

_BLOCK = re.compile(r"<(prompt|failure|example)((?:\s[^<>]*)?)>\n?(.*?)\n?</\1>", re.DOTALL)
_FIELD = re.compile(r"<(system|user|output|id|input|expected|answer|score|reason)>\n?(.*?)\n?</\1>", re.DOTALL)
_PATTERN = re.compile(r"<pattern>\n?(.*?)\n?</pattern>", re.DOTALL)
_MODE = re.compile(r"<mode id=\"(\w+)\"[^<>]*>\n(.*?)\n</mode>", re.DOTALL)
_ATTRIBUTE = re.compile(r"(\w+)=\"([^\"]*)\"")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_COUNT = re.compile(
    r"\b(one|two|three|four|five|six|seven|eight|nine|ten|\d{1,2})\s+(?:\w+\s+){0,3}?"
    r"(?:prompts|candidates|variants|variations|versions|rewrites|alternatives|children|paraphrases|improvements)\b"
)
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: n for n, word in enumerate(_WORDS)}
_PARAPHRASE = re.compile(
    r"paraphras|rephras|reword|same meaning|same intent|different words|other words", re.IGNORECASE
)
_VARIATION = re.compile(r"\bvariation of the prompt\b", re.IGNORECASE)
_SHORTER = re.compile(
    r"shorter (?:reasoning|answer|response|thinking)|fewer (?:tokens|words)|token count|too long|verbose|wordy",
    re.IGNORECASE,
)
_CROSS = re.compile(r"cross[- ]?over|combine|merge|recombin|mix the", re.IGNORECASE)
_BIG = re.compile(r"radical|from scratch|completely different|fresh|entirely new", re.IGNORECASE)
_FORM_REASON = re.compile(
    r"expected (?:a single|one of)|found no (?:number|text)|stands elsewhere|names none|format|not a number"
)
_LAST_NUMBER = re.compile(r"(?:####|the final number is)?\s*[-+]?[$€£]?[\d,]*\.?\d+\W*", re.IGNORECASE)
_COLUMN = re.compile(r"^(\w+): ", re.MULTILINE)
_NUMBER = re.compile(r"^[-+]?[$€£]?[\d,]*\.?\d+%?$")


@dataclass(frozen=True)
class Shown:
    """A prompt shown in the request."""

    texts: Mapping[str, str]
    score: float | None = None


@dataclass(frozen=True)
class Case:
    """A failure or an example shown in the request."""

    name: str  # its id where one is shown, else its number
    input: str
    expected: str
    answer: str
    reason: str


@dataclass(frozen=True)
class Sight:
    """A request, read."""

    prompts: tuple[Shown, ...]
    failures: tuple[Case, ...]
    examples: tuple[Case, ...]
    instruction: str
    patterns: tuple[str, ...] = ()  # wordings that are recommended

    @cached_property
    def modes(self) -> tuple[Case, ...]:
        """Kinds of failure that earlier replies found, each with its text as the reason."""
        return tuple(Case(name, "", "", "", _plain(text)) for name, text in _MODE.findall(self.instruction))

    @cached_property
    def form(self) -> Form | None:
        """The answer form that the expected texts and the complaints point to."""
        expected = [case.expected.strip() for case in (*self.failures, *self.examples) if case.expected.strip()]
        if expected:
            reasons = " ".join(case.reason for case in self.failures)
            known = {text.lower() for text in expected}
            # an answer that is another case's expected one: the answers come from a list
            swapped = any(_last_line(case.answer).lower() in known - {case.expected.lower()} for case in self.failures)
            return form_of(expected, swapped or "expected one of" in reasons)
        for form, complaint in COMPLAINTS.items():
            if complaint in self.instruction:
                return form
        return None

    @cached_property
    def hinted(self) -> list[str]:
        """The skills that the failures or a critique name, once for each time."""
        named: list[str] = []
        for case in self.failures:
            named += skills_named(f"{case.answer}\n{case.reason}")
        for skill in SKILLS:  # outside of failures, ordinary words mean nothing: the sentence must be a hint
            named += [skill.name] * sum(self.instruction.count(hint) for hint in skill.hints)
        return named

    @cached_property
    def misformed(self) -> int:
        """How many failures, or complaints, are about the form of the answer."""
        complaints = sum(self.instruction.count(complaint) for complaint in COMPLAINTS.values())
        if self.form is None:
            return complaints
        return complaints + sum(is_misformed(self.form, case) for case in self.failures)

    @cached_property
    def unreasoned(self) -> int:
        """How many failures, or complaints, show an answer without reasoning."""
        bare = sum(len(case.answer.strip().splitlines()) <= 1 for case in self.failures)
        return bare + self.instruction.count(NO_REASONING)

    @property
    def is_paraphrase(self) -> bool:
        """True if nothing but other words are asked for."""
        return bool(_PARAPHRASE.search(self.instruction)) and not self.failures and not self.hinted

    @property
    def is_guess(self) -> bool:
        """True if a variation is asked for, and nothing is shown that could say which."""
        evidence = (self.failures, self.examples, self.patterns, self.hinted)
        return bool(_VARIATION.search(self.instruction)) and len(self.prompts) < 2 and not any(evidence)

    @property
    def wants_shorter(self) -> bool:
        return bool(_SHORTER.search(self.instruction)) or TOO_LONG in self.instruction

    @property
    def wants_cross(self) -> bool:
        return len(self.prompts) >= 2 and bool(_CROSS.search(self.instruction))

    @property
    def wants_big(self) -> bool:
        return bool(_BIG.search(self.instruction))

    @cached_property
    def count(self) -> int | None:
        """How many prompts the instruction asks for, where it says."""
        match = _COUNT.search(self.instruction.lower())
        return (_NUMBERS.get(match[1]) or int(match[1])) if match else None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The placeholders of the shown prompts; without any, the columns that the shown inputs have."""
        texts = [text for shown in self.prompts for text in shown.texts.values()]
        found = [name for text in texts for name in _PLACEHOLDER.findall(text)]
        if not found:
            inputs = [_COLUMN.findall(case.input) for case in (*self.examples, *self.failures)]
            found = [f"{{{name}}}" for name in (inputs[0] if inputs else []) if all(name in other for other in inputs)]
        return tuple(name for name in dict.fromkeys(found) if name != "{demos}")


def read_request(request: Request) -> Sight:
    """The request as the optimizer model reads it."""
    text = "\n\n".join(message.content for message in request.messages if message.role != "assistant")
    if request.schema is not None:  # the form of the reply is no evidence
        text = text.replace(json.dumps(request.schema, ensure_ascii=False), "")
    blocks = _BLOCK.findall(text)
    return Sight(
        prompts=tuple(_shown(attributes, body) for tag, attributes, body in blocks if tag == "prompt"),
        failures=_cases(blocks, "failure"),
        examples=_cases(blocks, "example"),
        instruction=_PATTERN.sub(" ", _BLOCK.sub(" ", text)),
        patterns=tuple(_plain(words) for words in _PATTERN.findall(_BLOCK.sub(" ", text))),
    )


def form_of(expected: Sequence[str], labels_named: bool = False) -> Form:
    """The answer form that expected texts have in common, as far as they show."""
    if all(len(text) == 1 and (text.isalpha() or (len(expected) == 1 and text in "1234")) for text in expected):
        return Form.LETTER
    if all(_NUMBER.match(text) for text in expected):
        return Form.NUMBER
    lengths = sorted(len(text.split()) for text in expected)
    few = len({text.lower() for text in expected})
    if lengths[-1] <= 4 and (labels_named or (len(expected) >= 3 and few <= max(2, len(expected) // 3))):
        return Form.LABEL
    return Form.SHORT if lengths[len(lengths) // 2] <= 12 else Form.SUMMARY


def is_misformed(form: Form, case: Case) -> bool:
    """True if a failure looks like a fault of form: its reason says so, or the shape of the answer."""
    if _FORM_REASON.search(case.reason):
        return True
    last = _last_line(case.answer)
    if form is Form.LETTER:
        return re.fullmatch(r"\W*\w\W*", last) is None
    if form is Form.NUMBER:
        return _LAST_NUMBER.fullmatch(last) is None
    longest = {Form.LABEL: 8, Form.SHORT: 20, Form.SUMMARY: 120}[form]
    return len(case.answer.split()) > max(longest, 2 * len(case.expected.split()))


def _last_line(answer: str) -> str:
    return answer.strip().rpartition("\n")[2].removeprefix("Answer:").strip()


def _shown(attributes: str, body: str) -> Shown:
    fields = {name: _plain(text) for name, text in _FIELD.findall(body) if name in ROLES}
    if not fields and body.strip():
        fields = {"system": _plain(body.strip())}
    try:
        score: float | None = float(dict(_ATTRIBUTE.findall(attributes))["score"])
    except (KeyError, ValueError):
        score = None
    return Shown(fields, score)


def _cases(blocks: Sequence[tuple[str, str, str]], wanted: str) -> tuple[Case, ...]:
    cases: list[Case] = []
    for tag, attributes, body in blocks:
        if tag == wanted:
            fields = {name: _plain(text) for name, text in _FIELD.findall(body)}
            known = dict(_ATTRIBUTE.findall(attributes))
            name = known.get("id") or known.get("example_id") or fields.get("id") or str(len(cases) + 1)
            parts = (fields.get(key, "") for key in ("input", "expected", "answer", "reason"))
            cases.append(Case(name, *parts))
    return tuple(cases)


def _plain(text: str) -> str:
    return text.replace("<\\/", "</")
