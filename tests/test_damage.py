"""A run whose files are damaged: what cannot be read is named, nothing is paid again for it, and the rest goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmark_task import Place, attempt
from utils.archive import Attempt, RunArchive, local_archive
from utils.errors import ErrorKind
from utils.records import Budget, Status, TaskResult, TaskSpec

SPEC = TaskSpec("gsm8k", "no_op", "sim/standard", 1, data="sample", test_mode=True, budget=Budget(60))


def attempted(archive: RunArchive, number: int) -> TaskResult:
    """The task, tried once more: it reads the journals of all tries before."""
    now, *earlier = (Attempt(SPEC.task_id, 1, f"{count:03d}") for count in range(number, 0, -1))
    result = attempt(SPEC, Place(archive, now, tuple(reversed(earlier))))
    assert result
    return result


def journal(archive: RunArchive, folder: Path, number: int) -> Path:
    return folder / "r" / archive.journal_name(Attempt(SPEC.task_id, 1, f"{number:03d}"))


def test_a_task_whose_journal_is_damaged_fails_before_a_call_is_sent(tmp_path: Path) -> None:
    archive = local_archive(tmp_path, "r")
    assert attempted(archive, 1).status is Status.COMPLETED
    first, second = (journal(archive, tmp_path, number) for number in (1, 2))
    lines = first.read_bytes().split(b"\n")
    first.write_bytes(b"\n".join([*lines[:3], lines[3][:40], *lines[4:]]))
    result = attempted(archive, 2)
    assert result.status is Status.FAILED
    assert result.error
    assert result.error.kind is ErrorKind.BAD_REQUEST
    assert result.error.message.startswith(f"journal/{first.name}, line 4 cannot be read: ")
    assert second.read_bytes() == b""


def test_a_torn_last_line_costs_its_one_call_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = local_archive(tmp_path, "r")
    whole = attempted(archive, 1)
    first, second = (journal(archive, tmp_path, number) for number in (1, 2))
    first.write_bytes(first.read_bytes()[:-30])
    with caplog.at_level(logging.WARNING, "utils"):
        again = attempted(archive, 2)
    assert (again.final, again.spent) == (whole.final, whole.spent)
    assert f"{first.name} ends in a torn line" in caplog.text
    assert len(second.read_bytes().splitlines()) == 2, "its format, and one call"
