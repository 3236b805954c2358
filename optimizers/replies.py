"""Reading JSON out of what a model said: strict JSON, else a fenced block, else the first balanced value that fits.

The ladder's last rung, one repair call, belongs to the editor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}
FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
OPENING = re.compile(r"[{\[]")
MOST_OPENINGS = 200  # brackets in prose that are tried


class MalformedReply(Exception):
    """A reply that holds no JSON of the wanted form; the message says what is wrong with it."""


def parse(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in a reply. Raises MalformedReply where there is none, or where it does not fit the schema."""
    problem = ""
    for candidate in _candidates(text):
        found = misfit(candidate, schema)
        if not found and isinstance(candidate, dict):
            return candidate
        problem = found if isinstance(candidate, dict) else problem or found
    raise MalformedReply(problem or "the reply holds no JSON object")


def misfit(value: Any, schema: Mapping[str, Any], path: str = "the reply") -> str:
    """What in a value does not fit a JSON schema (types, required, items, enum); empty if it fits."""
    kind = schema.get("type")
    if kind and (not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return f"{path} is not of type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} is not one of {schema['enum']}"
    if kind == "object":
        for name in schema.get("required", ()):
            if name not in value:
                return f"{path} has no key {name!r}"
        inner = [(value[name], part, name) for name, part in schema.get("properties", {}).items() if name in value]
        return next(filter(None, (misfit(item, part, f"{path}.{name}") for item, part, name in inner)), "")
    if kind == "array":
        if len(value) < schema.get("minItems", 0):
            return f"{path} has fewer than {schema['minItems']} items"
        part = schema.get("items", {})
        return next(filter(None, (misfit(item, part, f"{path}[{i}]") for i, item in enumerate(value))), "")
    return ""


def _candidates(text: str) -> Iterator[Any]:
    """The JSON values that a text may mean, the strictest reading first."""
    for source in (text, *FENCE.findall(text)):
        try:
            yield DECODER.decode(source)
        except UNREADABLE:
            continue
    end = 0
    for opening in islice(OPENING.finditer(text), MOST_OPENINGS):
        if opening.start() < end:
            continue  # inside a value that was read
        try:
            value, end = DECODER.raw_decode(text, opening.start())
        except UNREADABLE:
            continue
        yield value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)  # the module's own would read NaN
UNREADABLE = (ValueError, RecursionError)  # nested beyond reason is no JSON of ours
