"""Traces of a run on this machine: an exporter beside the runner, told of everything that it is told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console

from benchmark_config import Settings
from benchmark_task import Launch
from local.runner import Watcher
from utils.archive import Attempt, RunArchive, TaskState
from utils.records import Progress, TaskResult, TaskSpec
from utils.tracing.delivery import read_traced
from utils.tracing.exporter import QUIET_S, Exporter, chosen_items
from utils.tracing.target import decide


def begin(launch: Launch, settings: Settings, console: Console) -> Exporter | None:
    """The exporter of a run; None where no traces are sent, and one line that says why.

    Raises UsageError where they were demanded and cannot be sent.
    """
    decision = decide(settings.tracing, os.environ)
    console.print(decision.line, style="dim", markup=False, highlight=False, soft_wrap=True)
    if decision.target is None:
        return None
    items = chosen_items(settings.trace_items, launch.estimate.task_calls[1])
    return Exporter(decision.target, launch.archive, launch.plan.created, items=items, quiet_s=QUIET_S)


@dataclass
class Told:
    """A watcher that passes everything on to another, and what concerns traces to the exporter as well."""

    watcher: Watcher
    exporter: Exporter
    states: Mapping[str, TaskState]
    _attempts: dict[str, tuple[Attempt, ...]] = field(default_factory=dict)

    def started(self, spec: TaskSpec, attempt: Attempt) -> None:
        earlier = self._attempts.get(spec.task_id) or self.states.get(spec.task_id, TaskState()).attempts
        self._attempts[spec.task_id] = (*earlier, attempt)
        self.exporter.started(spec, attempt, earlier)
        self.watcher.started(spec, attempt)

    def progressed(self, progress: Progress) -> None:
        self.watcher.progressed(progress)

    def finished(self, spec: TaskSpec, result: TaskResult) -> None:
        self.exporter.finished(spec, result)
        self.watcher.finished(spec, result)

    def lost(self, spec: TaskSpec, reason: str) -> None:
        self.watcher.lost(spec, reason)

    def noted(self, text: str) -> None:
        self.watcher.noted(text)

    def tick(self) -> None:
        self.watcher.tick()


class TraceLinks:
    """The pages of tasks in Opik, of those that were sent. Each is read once."""

    def __init__(self, archive: RunArchive) -> None:
        self._archive = archive
        self._known: dict[str, dict[str, str]] = {}

    def __call__(self) -> Mapping[str, Mapping[str, str]]:
        for name in self._archive.blobs.list("traced"):
            task_id = name.removesuffix(".json")
            if task_id not in self._known:
                traced = read_traced(self._archive, task_id)
                if traced and traced.link:
                    self._known[task_id] = {"traces": traced.link}
        return self._known
