"""A run whose files are damaged: what cannot be read is named, nothing is paid again for it, and the rest goes on."""

from __future__ import annotations

import errno
import logging
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import check_results
import run_benchmark
from benchmark_config import Settings
from benchmark_task import Place, attempt
from local.checkpoint import Checkpoint
from local.inspection import LocalRuns, show_runs
from local.launch import plan_again
from local.venue import LocalVenue
from utils.archive import Attempt, Kind, RunArchive, local_archive
from utils.disk import Disk, Log
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


# --------------------------------------------------------------------------- a disk that is full


class Full(Disk):
    """A disk with room for so many bytes of a log, and for nothing else."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def open_log(self, path: Path) -> Log:
        log, disk = super().open_log(path), self

        class Short:
            def write(self, content: bytes) -> int:
                disk.room -= len(content)
                if disk.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
                return log.write(content)

            def sync(self) -> None:
                log.sync()

            def close(self) -> None:
                log.close()

        return Short()


def test_a_full_disk_is_no_failure_of_the_task_which_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = attempted(local_archive(tmp_path / "elsewhere", "r"), 1)
    full = local_archive(tmp_path, "r", Full(6000))
    with pytest.raises(OSError, match="No space left"):
        attempted(full, 1)
    archive = local_archive(tmp_path, "r")
    assert archive.states([SPEC])[SPEC.task_id].result == ""
    kept = len(journal(archive, tmp_path, 1).read_bytes().splitlines()) - 1
    again = attempted(archive, 2)
    assert (again.final, again.spent) == (whole.final, whole.spent)
    assert kept > 0
    assert len(journal(archive, tmp_path, 2).read_bytes().splitlines()) - 1 == whole_calls(tmp_path) - kept


def whole_calls(folder: Path) -> int:
    path = folder / "elsewhere" / "r" / "journal"
    return sum(len(file.read_bytes().splitlines()) - 1 for file in path.iterdir())


def test_a_checkpoint_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive, _ = completed(tmp_path, "r")
    overview = Overview(archive, archive.load_plan())
    checkpoint = Checkpoint(local_archive(tmp_path, "r", Full(0)), overview)
    assert [checkpoint.write(stopped=True)["status"] for _ in range(2)] == ["completed", "completed"]
    assert caplog.text.count("checkpoint.json cannot be written: No space left on device") == 1


@pytest.mark.parametrize("command", [run_benchmark, check_results])
def test_what_the_system_refuses_is_one_line(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/r/plan.json")

    monkeypatch.setattr(command, "refuse_missing_values", refused)
    assert command.cli(["--list-runs"]) == 2
    assert capsys.readouterr().err.startswith("error: 'runs/r/plan.json': No space left on device; ")


def test_a_run_on_a_full_disk_ends_in_one_line_and_is_resumed(tmp_path: Path) -> None:
    grid = "--demo-datasets gsm8k --optimizers hill_climb --models sim/standard --data sample --test-mode"
    words = f"{grid} --run-id r --no-cache --no-tracing --yes"
    command = [sys.executable, "run_benchmark.py", *words.split()]

    def run(largest: int) -> subprocess.CompletedProcess[str]:
        limits = (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        return subprocess.run(
            [*command, "--checkpoint-dir", str(tmp_path)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits),
        )

    short = run(16_000)
    assert short.returncode == 2, short.stdout + short.stderr
    (line,) = short.stderr.splitlines()
    assert "could not write to" in line
    assert "--resume-run-id r" in line
    archive = local_archive(tmp_path, "r")
    assert [state.result for state in archive.states(archive.load_plan().tasks).values()] == [""]
    assert run(resource.RLIM_INFINITY).returncode == 0
