"""Rules for what goes wrong, and when: requests that fail or take long, containers that are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from grpclib.const import Status

ACTIONS = {"input": ("crash", "preempt", "cancel"), "output": ("drop_output",)}


@dataclass
class Rule:
    """One fault. A rule has either `rpc`, the name of a request or "*", or `at`, a moment in the life of an input.

    An input is hit `after` seconds of running: its container crashes or is preempted, or the input is cancelled. An
    output that is dropped is lost together with its container, so the input runs a second time.
    """

    rpc: str = ""
    delay: float = 0.0  # seconds before the request is looked at
    gathers: int = 0  # so many requests wait for each other before any is looked at, or until the rule is taken away
    gathered: int = 0
    status: str = ""  # refused with this: UNAVAILABLE, RESOURCE_EXHAUSTED, ...
    message: str = "injected fault"
    carried_out: bool = False  # the request is carried out and only its answer is lost
    at: str = ""  # input, output
    action: str = ""
    after: float = 0.5
    function: str = ""  # only inputs of this function
    contains: str = ""  # only inputs with this text in their arguments
    skip: int = 0  # the first so many that match are spared
    times: int = 1  # matches that are hit

    def __post_init__(self) -> None:
        if self.rpc and not self.at:
            if self.status and self.status not in Status.__members__:
                raise ValueError(f"unknown status {self.status!r}; known: {', '.join(Status.__members__)}")
        elif self.rpc or self.action not in ACTIONS.get(self.at, ()):
            raise ValueError(f"no fault {asdict(self)}; a rule has an rpc, or at and action out of {ACTIONS}")

    def strikes(self) -> bool:
        """Whether this match is hit; counts it."""
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times <= 0:
            return False
        self.times -= 1
        return True


class Faults:
    """The rules in force."""

    def __init__(self, rules: Iterable[Mapping[str, Any]] = ()) -> None:
        self.rules: list[Rule] = []
        self.replace(rules)

    def replace(self, rules: Iterable[Mapping[str, Any]]) -> None:
        self.rules = [Rule(**rule) for rule in rules]

    def of_request(self, rpc: str) -> list[Rule]:
        """The rules that hit this request, in their order: one may delay it and another refuse it."""
        return [rule for rule in self.rules if rule.rpc in (rpc, "*") and rule.strikes()]

    async def meet(self, rule: Rule) -> None:
        """Hold a request until those that it waits for are there."""
        rule.gathered += 1
        while rule.gathered < rule.gathers and any(rule is each for each in self.rules):
            await asyncio.sleep(0.01)

    def of_input(self, at: str, function: str, arguments: bytes) -> Rule | None:
        """The rule that hits an input of this function at this moment."""
        for rule in self.rules:
            meant = rule.at == at and rule.function in ("", function) and rule.contains.encode() in arguments
            if meant and rule.strikes():
                return rule
        return None
