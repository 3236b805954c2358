"""Values and manifests that people write, read as YAML without its traps: what would not fit a plan is refused.

A plan is JSON: texts, whole numbers of ordinary size, finite numbers, truth values, lists, and mappings with texts as
keys. YAML can say more (dates, sets, bytes, aliases that unfold to gigabytes, nesting without end), and none of it is
wanted here. The stream of events is looked at before anything is built from it.
"""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

from utils.errors import UsageError, cut

LONGEST = 262_144  # characters of a text that is read
DEEPEST = 20  # lists and mappings within each other
LARGEST = 2**63 - 1


def read_value(text: str, where: str) -> Any:
    """The value that a text stands for, a YAML scalar or JSON: `3` is a number and `on` a truth value.

    Raises UsageError, beginning with `where`, for what cannot be read and for what a plan cannot hold.
    """
    try:
        _refuse_traps(text)
        value = _parsed(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "it is not YAML"
        mark = getattr(error, "problem_mark", None)
        at = f" in line {mark.line + 1}" if mark and "\n" in text else ""
        raise UsageError(f"{where}: cannot be read ({cut(' '.join(problem.split()))}{at}); quote it") from None
    except ValueError as error:  # a number with more digits than Python reads, a date that no calendar has
        raise UsageError(f"{where}: cannot be read ({cut(str(error).partition(';')[0])}); quote it") from None
    except _Trap as trap:
        raise UsageError(f"{where}: {trap}") from None
    _refuse_strange(value, where)
    return value


def _parsed(text: str) -> Any:
    """JSON first: YAML takes its 1e-3 for a text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


class _Trap(Exception):
    """Something that YAML allows and nobody means."""


def _refuse_traps(text: str) -> None:
    if len(text) > LONGEST:
        raise _Trap(f"it is {len(text):,} characters long; {LONGEST:,} are read at most")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _Trap(f"it holds the alias {cut(f'*{event.anchor}')!r}; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _Trap(f"it is nested more than {DEEPEST} deep; make it flatter")


def _refuse_strange(value: Any, where: str) -> None:
    """Raises UsageError for what JSON has no word for."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise UsageError(f"{where}: the key {cut(repr(name))} is not a text; quote it")
            _refuse_strange(item, f"{where}: {cut(name)}")
    elif isinstance(value, list):
        for item in value:
            _refuse_strange(item, where)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise UsageError(f"{where}: {cut(str(value))} is too large a number; quote it if it is a text")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value} is not a finite number; quote it if it is a text")
    elif value is not None and not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise UsageError(f"{where}: it is read as a {kind}, which no parameter takes; quote it if it is a text")
