"""The simulated optimizer model: a reply in the form that the request asks for, from the request's text alone.

A JSON schema is walked without knowing who wrote it: an object with texts of a prompt gets an edited prompt, a list
gets as many as are asked for, and other fields are filled by what their names say. Some replies are malformed, at a
set rate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from utils.llm.simulated.draws import Stream
from utils.llm.simulated.editing import Edit, Texts, cases_of, critique, propose, shared
from utils.llm.simulated.lexicon import REFUSALS, SKILLS, SYNONYMS
from utils.llm.simulated.reading import ROLES, Sight, read_request
from utils.records import Request

Schema = Mapping[str, Any]

_CRITIQUE = re.compile(r"critiqu|criticis|criticiz|feedback|what went wrong|diagnos", re.IGNORECASE)
_REWRITE = re.compile(r"rewrite|new prompt|improved prompt|updated prompt", re.IGNORECASE)
_ASKED_TAG = re.compile(r"<(\w+)>\s*(?:\.\.\.|…)?\s*</\1>|(?:between|inside|within|in) <(\w+)> tags", re.IGNORECASE)
_TEXTUAL = re.compile(
    r"prompt|child|candidate|rewrite|improved|variant|variation|text|instruction|version|paraphrase|content"
)
_REASONS = re.compile(
    r"reason|why|rationale|explanation|focus|gradient|critique|feedback|root_cause|description|analysis|summary"
)
_PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_WORD = re.compile(r"<word>\n?(.*?)\n?</word>")
_MODE_FIELDS = frozenset({"root_cause", "description", "failure_mode", "mode"})
MAX_MODES = 6  # kinds of failure that are told apart
DEFAULT_ITEMS = 3  # of a list whose length nobody states


def reply(request: Request, q: float, malformed: float, stream: Stream) -> str:
    """The text of a reply to one request."""
    sight = read_request(request)
    text = _Writer(sight, q, stream).reply(request.schema)
    return spoil(text, stream) if stream.chance(malformed) else text


class _Writer:
    """Fills the form of one reply."""

    def __init__(self, sight: Sight, q: float, stream: Stream) -> None:
        self._sight = sight
        self._q = q
        self._stream = stream
        self._edits: list[Edit] = []

    def reply(self, schema: Schema | None) -> str:
        if schema is not None:
            return json.dumps(self._value(schema, "", 0), ensure_ascii=False)
        return self._free()

    def _free(self) -> str:
        """Without a schema: tags or fenced JSON where the text asks for them, else the plain text."""
        sight = self._sight
        if _CRITIQUE.search(sight.instruction) and not _REWRITE.search(sight.instruction):
            return critique(sight, self._stream)
        roles = [role for role in ROLES if sight.prompts and role in sight.prompts[0].texts] or ["system"]
        texts = self._propose(roles)
        if re.search(r"\bJSON\b", sight.instruction):
            return f"```json\n{json.dumps(texts, ensure_ascii=False, indent=2)}\n```"
        tag = _ASKED_TAG.search(sight.instruction)
        main = _main(texts)
        if tag:
            name = tag[1] or tag[2]
            inner = texts.get(name, main)
            return f"<{name}>\n{inner}\n</{name}>"
        return main

    def _value(self, schema: Schema, name: str, index: int) -> Any:
        """A value that fits a schema; `index` is its place in the nearest list."""
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._stream.pick(list(schema["enum"]))
        for union in ("anyOf", "oneOf"):
            if schema.get(union):
                return self._value(schema[union][0], name, index)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        makers: dict[Any, Callable[[], Any]] = {
            "object": lambda: self._object(schema, index),
            "array": lambda: self._array(schema, name, index),
            "integer": lambda: self._number(schema, index, whole=True),
            "number": lambda: self._number(schema, index, whole=False),
            "boolean": lambda: self._stream.chance(0.5),
            "null": lambda: None,
        }
        if kind in makers:
            return makers[kind]()
        if kind is None and "properties" in schema:
            return self._object(schema, index)
        return self._string(name, index)

    def _object(self, schema: Schema, index: int) -> dict[str, Any]:
        properties: Mapping[str, Schema] = schema.get("properties", {})
        given: dict[str, Any] = {}
        # `system`, or `system_prompt`
        roles = {name.removesuffix("_prompt"): name for name in properties if name.removesuffix("_prompt") in ROLES}
        if roles:
            texts = self._propose([role for role in ROLES if role in roles])
            given = {name: texts.get(role, "") for role, name in roles.items()}
        elif {"target", "op"} <= properties.keys() or {"find", "text"} <= properties.keys():
            given = self._edit(properties, index)
        elif {"role", "content"} <= properties.keys():
            given = {"role": "system", "content": self._string("content", index)}
        elif "template" in properties:
            given = {"template": self._template()}
        filled = {}
        for name, part in properties.items():
            if name in given:
                filled[name] = given[name]
            elif name in schema.get("required", properties):
                filled[name] = self._value(part, name, index)
        return filled

    def _array(self, schema: Schema, name: str, index: int) -> list[Any]:
        items: Schema = schema.get("items", {"type": "string"})
        properties = items.get("properties", {})
        if {"role", "content"} <= properties.keys():
            return self._messages()
        if name.endswith(("_ids", "_id", "items")) and items.get("type") in ("string", "integer", None):
            return self._names(items, name, index)
        count = self._count(schema, properties, name)
        return [self._value(items, name.removesuffix("s"), i) for i in range(count)]

    def _count(self, schema: Schema, properties: Mapping[str, Any], name: str) -> int:
        low = int(schema.get("minItems", 0))
        high = int(schema.get("maxItems", 100))
        if _MODE_FIELDS & properties.keys():
            seen = (*set(self._sight.hinted), *(self._sight.misformed, self._sight.unreasoned))
            wanted = max(1, min(sum(map(bool, seen)), MAX_MODES))
        elif {"find", "text"} <= properties.keys():
            self._propose(list(ROLES))
            wanted = len(self._edits)
        else:
            wanted = self._sight.count or low or DEFAULT_ITEMS
        return min(max(wanted, low), high)

    def _names(self, items: Schema, name: str, index: int) -> list[Any]:
        """Names of cases that are shown; for a failure mode those that show it."""
        cases = [*self._sight.failures, *self._sight.examples]
        hinted = list(dict.fromkeys(self._sight.hinted))
        if name in ("item_ids", "mode_ids"):
            cases = cases_of(self._sight, critique(self._sight, self._stream, index))
        elif hinted:
            pattern = next(skill.pattern for skill in SKILLS if skill.name == hinted[index % len(hinted)])
            cases = [case for case in cases if pattern.search(f"{case.answer} {case.reason}".lower())] or cases[:1]
        else:
            cases = self._stream.shuffled(cases)[:2]
        names = [case.name for case in cases]
        return [int(name) for name in names if name.isdigit()] if items.get("type") == "integer" else names

    def _number(self, schema: Schema, index: int, *, whole: bool) -> float | int:
        low, high = float(schema.get("minimum", 0)), float(schema.get("maximum", 1 if not whole else 10))
        value = low + (high - low) * self._stream.uniform()
        return round(value) if whole else round(value, 3)

    def _string(self, name: str, index: int) -> str:
        low = name.lower()
        if low in ("name", "title"):
            return _title(critique(self._sight, self._stream, index))
        if low == "template":
            return self._template()
        if low == "slot":
            return "system"
        if low == "replacement" and (word := _WORD.search(self._sight.instruction)):
            return SYNONYMS.get(word[1], word[1])
        if low in ("pattern", "example") and (found := shared(self._sight)):
            return found[min(index, len(found) - 1)]
        if _REASONS.search(low):
            if self._edits:
                return self._edits[-1].why
            return critique(self._sight, self._stream, index if low in _MODE_FIELDS else None)
        if _TEXTUAL.search(low):
            return _main(self._propose(list(ROLES)))
        return critique(self._sight, self._stream, index)

    def _propose(self, roles: Sequence[str]) -> Texts:
        texts, self._edits = propose(self._sight, roles, self._q, self._stream)
        return texts

    def _edit(self, properties: Mapping[str, Any], index: int) -> dict[str, Any]:
        if index >= len(self._edits):
            self._propose(list(ROLES))
        edit = (
            self._edits[min(index, len(self._edits) - 1)] if self._edits else Edit("system", "insert_after", "", "", "")
        )
        values = {"target": edit.target, "op": edit.op, "find": edit.find, "text": edit.text, "why": edit.why}
        return {name: values[name] for name in properties if name in values}

    def _messages(self) -> list[dict[str, str]]:
        texts = self._propose(["system", "user"])
        return [{"role": role, "content": texts[role]} for role in ("system", "user") if texts.get(role)]

    def _template(self) -> str:
        """A demo template with the placeholders that the request shows."""
        lines = [f"{column[1:-1].replace('_', ' ').capitalize()}: {column}" for column in self._sight.columns]
        return "\n".join([*(lines or ["Input: {input}"]), "Answer: {target}"])


def spoil(text: str, stream: Stream) -> str:
    """The reply gone wrong in one of the ways in which replies go wrong."""
    way = stream.pick(("truncated", "prose", "wrong key", "single quotes", "missing placeholder", "empty", "refusal"))
    if way == "truncated":
        return text[: len(text) * 2 // 3]
    if way == "prose":
        return f"Sure! Here is what I came up with.\n\n{text}\n\nLet me know if you would like another version."
    if way == "wrong key":
        return re.sub(r'"(\w+)":', r'"new_\1":', text, count=1) if '":' in text else f"Prompt: {text}"
    if way == "single quotes":
        return text.replace('"', "'")
    if way == "missing placeholder":
        return _PLACEHOLDER.sub("", text, count=1)
    return "" if way == "empty" else stream.pick(REFUSALS)


def _main(texts: Texts) -> str:
    """The text that carries the instructions."""
    return texts.get("system") or texts.get("user") or next(iter(texts.values()), "")


def _title(sentence: str) -> str:
    return " ".join(sentence.rstrip(".").split()[:6])
