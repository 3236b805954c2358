"""Ids that follow from what they name: the same thing sent twice, by whomever, has the same id and stands once.

A backend looks ids up over all its workspaces, and refuses what another one holds. So the ids of a run follow from the
workspace and the project too, and those of rows, which runs share, from their dataset's id, which the server chose.

Opik wants UUIDs of version 7: 48 bits of milliseconds, then what makes them distinct, here bits of a hash. The time is
that of the record, never now, or the id would not be fixed. A backend may refuse traces and spans whose time is more
than a day from its own, so what is sent late gets another time, which is written down before it is used (`delivery`).
"""

from __future__ import annotations

import hashlib
import uuid

from utils.journal import Entry

# of things that several runs share, whose ids can depend on no run: some moment before all of them
SHARED_MS = 1_735_689_600_000  # 2025-01-01

VERSION, VARIANT = 0x7, 0b10


def uuid7(ms: int, *parts: str) -> str:
    """The id of what these parts name, dated so many milliseconds after 1970."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    value = (ms & ((1 << 48) - 1)) << 80 | int.from_bytes(digest[:10], "big")
    value = value & ~(0xF << 76) | VERSION << 76
    return str(uuid.UUID(int=value & ~(0b11 << 62) | VARIANT << 62))


def optimization_id(place: str, run_id: str, created_ms: int, task_id: str) -> str:
    """The id of a task's optimization at a place; `created_ms` is when the run was planned."""
    return uuid7(created_ms, "optimization", place, run_id, task_id)


def dataset_name(dataset: str, data_hash: str) -> str:
    """The name in Opik of the rows that a task uses: other rows are another dataset."""
    return f"{dataset}-{data_hash[:10]}"


def dataset_item_id(dataset_id: str, item: str) -> str:
    """The id of one row. The server chose the dataset's, so nobody else's rows have it."""
    return uuid7(SHARED_MS, "dataset item", dataset_id, item)


def dataset_group_id(dataset_id: str) -> str:
    """The id that makes one version of the dataset out of the batches in which its rows are sent."""
    return uuid7(SHARED_MS, "dataset", dataset_id)


def trial_id(ms: int, optimization: str, trial: str) -> str:
    """The id of a trial's experiment."""
    return uuid7(ms, "experiment", optimization, trial)


def link_id(experiment: str, item: str) -> str:
    """The id of one example's place in an experiment; dated as the experiment is."""
    return uuid7(uuid.UUID(experiment).int >> 80, "experiment item", experiment, item)


def pair_id(ms: int, optimization: str, prompt: str, item: str) -> str:
    """The id of the trace of one prompt on one row."""
    return uuid7(ms, "pair", optimization, prompt, item)


def call_id(ms: int, what: str, optimization: str, entry: Entry) -> str:
    """The id of a model call's span, or of the trace around a call of the optimizer model."""
    failed = "failed" if entry.failed else ""
    return uuid7(ms, what, optimization, entry.key, str(entry.occurrence), failed)
