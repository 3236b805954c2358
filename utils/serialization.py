"""One strict codec between the records of this project and JSON.

`encode` and `decode` are inverse for dataclasses, enums, tuples, lists, mappings and scalars. Decoding is strict: a
missing, unknown or mistyped field is an error that names its path. Only in what this program itself has written may a
field be unknown: a newer version wrote it, for which everything that is known still means the same. NaN and the
infinities, which JSON lacks, become `{"$float": "nan"}`, so every file is valid JSON. A content hash is taken over the
canonical text.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from utils.errors import UsageError

T = TypeVar("T")

FLOAT = "$float"
FORMAT_KEY = "format"
FORMAT = 1  # of a run's files; raised when a field changes its meaning, or one that must not be overlooked is added


def encode(value: Any) -> Any:
    """The JSON form of a record: dicts, lists and scalars only."""
    if value is None or (isinstance(value, bool | int) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {FLOAT: repr(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in _names(type(value))}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a mapping key must be text, not {key!r}")
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(encode(item) for item in value)
    raise TypeError(f"cannot be written as JSON: {type(value).__name__} {value!r}")


def decode(cls: type[T], value: Any, path: str = "", *, newer: bool = False) -> T:
    """The record of type `cls` that `value` stands for; the inverse of `encode`. `newer`: unknown fields are let be.

    Raises UsageError with the path of the first field that does not fit.
    """
    return typing.cast(T, _decode(cls, value, path, newer))


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Canonical JSON text of a record: keys sorted, no NaN, non-ASCII kept."""
    separators = (",", ":") if indent is None else None
    return json.dumps(
        encode(value), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent
    )


def loads(cls: type[T], text: str | bytes) -> T:
    """The record that a JSON text stands for; UsageError if it is not JSON or does not fit."""
    return decode(cls, parse(text))


def parse(text: str | bytes) -> Any:
    """What a JSON text says; UsageError if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid JSON: {error}") from None


def to_file(record: Any) -> bytes:
    """The content of a file that holds one record."""
    return dumps({FORMAT_KEY: FORMAT, **encode(record)}).encode("utf-8", "surrogatepass")


def from_value(cls: type[T], value: Any) -> T:
    """The record in a file that this version, an older or a newer one has written. Raises UsageError."""
    refuse_format(value)
    return decode(cls, value, newer=True)


def refuse_format(value: Any) -> None:
    """Raises UsageError for what a newer version has written in a way that this one would misread."""
    if isinstance(value, dict) and value.get(FORMAT_KEY, FORMAT) != FORMAT:
        found = json.dumps(value[FORMAT_KEY])[:20]
        raise UsageError(f"it is of format {found}, this version reads {FORMAT}; use the version that wrote it")


def content_hash(value: Any, length: int = 16) -> str:
    """The first hex digits of the sha256 of the canonical text: an id that says what it names."""
    return hashlib.sha256(dumps(value).encode("utf-8", "surrogatepass")).hexdigest()[:length]


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON schema of a record type, for editors and for `--config-schema`."""
    if is_dataclass(cls):
        properties = {}
        for field in fields(cls):
            part = json_schema(_hints(cls)[field.name])
            properties[field.name] = part if field.default is MISSING else {**part, "default": encode(field.default)}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    args, origin = get_args(cls), get_origin(cls)
    if origin in (Union, types.UnionType):
        return {"anyOf": [json_schema(kind) for kind in args]}
    if origin in (dict, Mapping):
        return {"type": "object"}
    if origin in (tuple, list):
        return {"type": "array", "items": json_schema(args[0])}
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return {"type": names[cls]}


@cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


@cache
def _required(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(cls).items() if name in _names(cls)}


def _mismatch(path: str, wanted: str, value: Any) -> UsageError:
    return UsageError(f"{path or 'value'}: expected {wanted}, found {json.dumps(value, default=str)[:80]}")


def _decode(cls: Any, value: Any, path: str, newer: bool) -> Any:
    if cls is Any or cls is object:
        return _plain(value, path)
    origin = get_origin(cls)
    if origin is not None:
        return _decode_generic(cls, origin, value, path, newer)
    if is_dataclass(cls):
        return _decode_dataclass(typing.cast(type, cls), value, path, newer)
    if isinstance(cls, type) and issubclass(cls, Enum):
        try:
            return cls(value)
        except ValueError:
            raise _mismatch(path, f"one of {', '.join(str(item.value) for item in cls)}", value) from None
    if cls is float:
        if isinstance(value, dict) and set(value) == {FLOAT}:
            return _untag(value[FLOAT], path)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise _mismatch(path, "a number", value)
    if cls is type(None):
        if value is None:
            return None
        raise _mismatch(path, "null", value)
    if isinstance(value, cls) and not (isinstance(value, bool) and cls is not bool):
        return value
    raise _mismatch(path, cls.__name__, value)


def _decode_dataclass(cls: type, value: Any, path: str, newer: bool) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(path, f"the fields of {cls.__name__}", value)
    hints = _hints(cls)
    if newer:
        value = {key: item for key, item in value.items() if key in hints}
    for key in value:
        if key not in hints:
            from utils.errors import unknown

            raise unknown(f"field of {path or cls.__name__}", key, _names(cls))
    for name in _required(cls):
        if name not in value:
            raise UsageError(f"{path or cls.__name__}: field {name!r} is missing")
    return cls(
        **{
            # most fields are scalars of their very type: plans of thousands of tasks are read in a fraction of a second
            key: item if type(item) is hints[key] else _decode(hints[key], item, f"{path}.{key}".lstrip("."), newer)
            for key, item in value.items()
        }
    )


def _decode_generic(cls: Any, origin: Any, value: Any, path: str, newer: bool) -> Any:
    args = get_args(cls)
    if origin in (Union, types.UnionType):
        return _decode_union(args, value, path, newer)
    if origin is typing.Literal:
        if value in args:
            return value
        raise _mismatch(path, f"one of {', '.join(map(str, args))}", value)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _mismatch(path, "a mapping", value)
        return {key: _decode(args[1], item, f"{path}.{key}".lstrip("."), newer) for key, item in value.items()}
    if not isinstance(value, list):
        raise _mismatch(path, "a list", value)
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _mismatch(path, f"{len(args)} items", value)
        pairs = enumerate(zip(args, value, strict=True))
        return tuple(_decode(kind, item, f"{path}[{i}]", newer) for i, (kind, item) in pairs)
    items = [_decode(args[0], item, f"{path}[{i}]", newer) for i, item in enumerate(value)]
    return origin(items) if origin in (tuple, frozenset, set) else items


def _decode_union(kinds: tuple[Any, ...], value: Any, path: str, newer: bool) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    # an exact scalar type wins over one that would convert (1 stays an int in `int | float`)
    for kind in kinds:
        if type(value) is kind:
            return value
    error: UsageError | None = None
    for kind in kinds:
        try:
            return _decode(kind, value, path, newer)
        except UsageError as caught:
            error = error or caught
    raise error or _mismatch(path, "null", value)


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        if set(value) == {FLOAT}:
            return _untag(value[FLOAT], path)
        return {key: _plain(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    return value


def _untag(text: Any, path: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise _mismatch(path, "nan, inf or -inf", text)
    return float(text)
