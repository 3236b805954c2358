"""Faults put into the product by hand, each of which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from utils.archive import Attempt, RunArchive
from utils.door import Door
from utils.journal import Entry, Journal
from utils.llm.cache import AnswerStore
from utils.records import TaskResult
from utils.serialization import dumps


@contextmanager
def in_place(owner: Any, **others: Callable[..., Any]) -> Iterator[None]:
    """A class or a module with other functions."""
    before = {name: owner.__dict__[name] for name in others}
    for name, other in others.items():
        setattr(owner, name, other)
    try:
        yield
    finally:
        for name, original in before.items():
            setattr(owner, name, original)


@contextmanager
def line_after_use() -> Iterator[None]:
    """The journal writes a line when the next batch is asked, or at the end: after its answer was used."""
    record, find, close = Journal.record, Journal.find, Door.close
    late: dict[int, list[Entry]] = {}

    def record_later(self: Journal, entry: Entry) -> None:
        late.setdefault(id(self), []).append(entry)
        self._entries[entry.key, entry.occurrence] = entry

    def write_first(self: Journal, *place: Any) -> Entry | None:
        for entry in late.pop(id(self), []):
            record(self, entry)
        return find(self, *place)

    def write_last(self: Door) -> None:
        write_first(self._journal, "", 0)
        close(self)

    with in_place(Journal, record=record_later, find=write_first), in_place(Door, close=write_last):
        yield


@contextmanager
def result_before_details() -> Iterator[None]:
    """The small file, by which a task counts as done, is written before the large one."""
    save = RunArchive.save_result

    def small_first(self: RunArchive, attempt: Attempt, result: TaskResult) -> TaskResult:
        save(self, attempt, replace(result, steps=(), items={}))
        self.blobs.create(f"details/{attempt}.json", dumps(result).encode())
        return result

    with in_place(RunArchive, save_result=small_first):
        yield


@contextmanager
def claim_not_released() -> Iterator[None]:
    """Who claimed a question that was refused keeps it."""
    with in_place(AnswerStore, release=lambda *_: None):
        yield


MUTANTS: Mapping[str, Callable[[], Any]] = {
    made.__name__: made for made in (line_after_use, result_before_details, claim_not_released)
}
