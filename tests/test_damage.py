"""A run whose files are damaged: what cannot be read is named, nothing is paid again for it, and the rest goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark_config import Settings
from benchmark_task import Place, attempt
from local.inspection import LocalRuns, show_runs
from local.launch import plan_again
from local.venue import LocalVenue
from utils.archive import Attempt, Kind, RunArchive, local_archive
from utils.errors import ErrorKind, UsageError
from utils.records import Budget, RunPlan, Status, TaskResult, TaskSpec
from utils.report.overview import Overview

SPEC = TaskSpec("gsm8k", "no_op", "sim/standard", 1, data="sample", test_mode=True, budget=Budget(60))


class Venue(LocalVenue):
    """This machine, with no workers to warm up."""

    def warm_up(self, models: Sequence[str]) -> None:
        pass


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


# --------------------------------------------------------------------------- results


def completed(folder: Path, run_id: str) -> tuple[RunArchive, Path]:
    """A run of one task that is done; its archive, and the file of its result."""
    archive = local_archive(folder, run_id)
    archive.save_plan(RunPlan(run_id, "2026-01-01T00:00:00+00:00", (SPEC,)))
    archive.submit(Kind.NEW, [SPEC], "now")
    now = Attempt(SPEC.task_id, 1, "001")
    archive.blobs.write(archive.started_name(now), b"")
    attempt(SPEC, Place(archive, now))
    return archive, folder / run_id / "results" / archive.blobs.list("results")[0]


def made(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    if damage in ("a folder", "a link"):
        path.unlink()
    contents = {"emptied": b"", "cut": whole[:200], "zeros": bytes(500), "another file": b"{}", "a list": b"[1]"}
    if damage == "a folder":
        path.mkdir()
    elif damage == "a link":
        path.with_name("elsewhere").write_bytes(whole)
        path.symlink_to(path.with_name("elsewhere"))
    else:
        path.write_bytes(contents[damage])


@pytest.mark.parametrize("damage", ["emptied", "cut", "zeros", "another file", "a list", "a folder", "a link"])
def test_a_damaged_result_is_shown_by_its_file_and_hides_no_other(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, path = completed(tmp_path, "r")
    completed(tmp_path, "whole")
    made(path, damage)
    overview = Overview(archive, archive.load_plan()).render(stopped=True)
    (task,) = overview["tasks"]
    assert (overview["status"], task["status"], task["error"]["class"]) == ("failed", "failed", "damaged")
    assert f"results/{path.name} cannot be read" in task["error"]["message"]
    assert "delete it and resume" in task["error"]["message"]
    assert show_runs(LocalRuns(str(tmp_path)), as_json=False) == 0
    shown = capsys.readouterr().out
    assert "whole" in shown
    assert "1/1" in shown


def test_a_damaged_result_that_is_deleted_comes_back_for_nothing(tmp_path: Path) -> None:
    archive, path = completed(tmp_path, "r")
    whole = archive.load_result(path.name)
    path.write_bytes(b"")
    path.unlink()
    assert archive.states([SPEC])[SPEC.task_id].status is Status.PENDING
    again = attempted(archive, 2)
    assert (again.final, again.spent) == (whole.final, whole.spent)
    assert journal(archive, tmp_path, 2).read_bytes() == b""


def test_a_damaged_plan_takes_the_list_of_runs_not_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run_id in ("bad", "good"):
        completed(tmp_path, run_id)
    (tmp_path / "bad" / "plan.json").write_bytes(b'{"run_id"')
    (tmp_path / "notes.txt").write_text("a stray file")
    (tmp_path / "good" / "submissions" / "notes.txt").write_text("another")
    (tmp_path / "good" / "results" / "notes@1.txt").write_text("another")
    assert show_runs(LocalRuns(str(tmp_path)), as_json=False) == 0
    shown = capsys.readouterr().out
    assert "run 'bad': plan.json cannot be read: not valid JSON" in shown
    assert "1/1" in shown
    assert show_runs(LocalRuns(str(tmp_path)), as_json=True) == 0
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize(("field", "name"), [("optimizer", "gone"), ("dataset", "gone"), ("metric", "gone:score")])
def test_a_plan_that_names_what_is_no_longer_there_is_refused_in_one_line(
    field: str, name: str, tmp_path: Path
) -> None:
    archive = local_archive(tmp_path, "r")
    archive.save_plan(RunPlan("r", "2026-01-01T00:00:00+00:00", (replace(SPEC, **{field: name}),)))
    with pytest.raises(UsageError, match=rf"{field} '?{name}"):
        plan_again(Settings(), Venue(str(tmp_path)), "r", retry=False)
