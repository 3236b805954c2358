"""The prompt: what is optimized, and how it becomes messages.

Placeholders are `{column}`. Substitution is one pass over the template, so braces in a row or literal JSON in a
template are left alone; `str.format` is never used.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from utils.serialization import content_hash

if TYPE_CHECKING:
    from utils.records import Message

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
DEMOS = "demos"  # the placeholder that the demos fill
TARGET = "target"  # the placeholder, in a demo template, of the expected answer
TEXTS = ("system", "user", "output")
RESERVED = frozenset({DEMOS, TARGET})  # no input column may have these names


@dataclass(frozen=True)
class Demo:
    """A worked example inside a prompt, always a training row."""

    example_id: str
    inputs: Mapping[str, str]
    target: str


@dataclass(frozen=True)
class Prompt:
    """A system text, a user template, a text after the input, and demos.

    `{demos}` in `system` or `user` marks where the demos go; without it they stand at the end of `system`.
    """

    system: str = ""
    user: str = ""
    output: str = ""
    demos: tuple[Demo, ...] = ()
    demo_template: str = ""

    @cached_property
    def id(self) -> str:
        """A hash of the content: equal prompts have equal ids."""
        return content_hash(self)

    @property
    def placeholders(self) -> frozenset[str]:
        """The columns that the templates name (`demos` is not a column)."""
        named = [name for text in (self.system, self.user, self.output) for name in PLACEHOLDER.findall(text)]
        return frozenset(named) - {DEMOS}

    @property
    def length(self) -> int:
        """Characters of all texts, demos included; the tie-breaker between equal scores."""
        demos = sum(len(demo.target) + sum(map(len, demo.inputs.values())) for demo in self.demos)
        return len(self.system) + len(self.user) + len(self.output) + demos

    def with_demos(self, demos: Iterable[Demo]) -> Prompt:
        """The same prompt with these demos."""
        return replace(self, demos=tuple(demos))

    def render(self, inputs: Mapping[str, str]) -> tuple[Message, ...]:
        """The messages sent for one example: an optional system message, then the user's."""
        from utils.records import Message

        block = "\n\n".join(self._show(demo) for demo in self.demos)
        system, user = self.system, self.user
        slot = f"{{{DEMOS}}}"
        if self.demos and slot not in system and slot not in user:
            system = f"{system}\n\n{slot}" if system else slot
        values = {**inputs, DEMOS: block}
        system = fill(system, values)
        user = fill(user, values)
        if self.output:
            user = f"{user}\n\n{fill(self.output, inputs)}"
        return (*([Message("system", system)] if system else []), Message("user", user))

    def _show(self, demo: Demo) -> str:
        if self.demo_template:
            return fill(self.demo_template, {**demo.inputs, TARGET: demo.target})
        # not through a template: a column's name need not be one that a placeholder can have
        return "\n".join([*(f"{name}: {value}" for name, value in demo.inputs.items()), f"Answer: {demo.target}"])


def diff(old: Prompt, new: Prompt) -> str:
    """A unified diff of two prompts, text by text; worked examples count as one line each."""
    parts = [(name, getattr(old, name).splitlines(), getattr(new, name).splitlines()) for name in TEXTS]
    parts.append(("demos", [demo.example_id for demo in old.demos], [demo.example_id for demo in new.demos]))
    return "\n".join(
        line for name, before, after in parts for line in difflib.unified_diff(before, after, name, name, lineterm="")
    )


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with every known placeholder replaced, in one pass; unknown ones stay as they are.

    >>> fill('{"q": "{question}"} {other}', {"question": "a {brace}"})
    '{"q": "a {brace}"} {other}'
    """
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)
