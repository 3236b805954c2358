"""Faults put into what runs on Modal, each of which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmark_task import Launch
from modal_utils import worker_core
from modal_utils.coordinator import ModalVenue, Recorder
from modal_utils.storage import Mounted, Remote
from tests.simulation.mutants import in_place
from utils.archive import RunArchive, TaskState


@contextmanager
def submission_over_another() -> Iterator[None]:
    """What is written once replaces what stands there: two dispatchers are the same submission."""
    with in_place(Remote, create=Remote.write):
        yield


@contextmanager
def no_look_back() -> Iterator[None]:
    """A dispatcher submits what it saw to be open before others began it."""

    def submit_all(self: ModalVenue, archive: RunArchive, launch: Launch, submission: int) -> Any:
        seen = {task.task_id: launch.states.get(task.task_id, TaskState()) for task in launch.tasks}
        return seen, launch.tasks

    with in_place(ModalVenue, _look_back=submit_all):
        yield


@contextmanager
def never_superseded() -> Iterator[None]:
    """A call begins whatever later dispatches say."""
    with in_place(worker_core, _is_superseded=lambda archive, order: False):
        yield


@contextmanager
def result_not_committed() -> Iterator[None]:
    """A container ends without a commit of its result."""
    publish = Mounted.publish

    def unless_done(self: Mounted) -> None:
        if not any(path.parent.name == "results" for path in self.disk.names_):
            publish(self)

    with in_place(Mounted, publish=unless_done):
        yield


@contextmanager
def calls_not_written_down() -> Iterator[None]:
    """A dispatcher that is stopped forgets the calls that it made."""
    with in_place(Recorder, save=lambda self: None):
        yield


MUTANTS: Mapping[str, Callable[[], Any]] = {
    made.__name__: made
    for made in (submission_over_another, no_look_back, never_superseded, result_not_committed, calls_not_written_down)
}
