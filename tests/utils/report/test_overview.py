"""The state of a run as plain data: statuses, figures that survive JSON, one reading of each result."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from tests.utils.report.runs import done, failed, nan_result, spec, written
from utils.archive import Attempt, Folder, Kind, RunArchive
from utils.errors import ErrorKind
from utils.journal import Entry
from utils.records import Completion, Failure, Role, Spend, Status, TaskResult, Usage
from utils.report.overview import Overview, run_status, task_row
from utils.report.tables import results, runs_table, tasks_table
from utils.serialization import dumps, encode

A, B, C = (spec(seed) for seed in (1, 2, 3))


@pytest.mark.parametrize(
    ("statuses", "stopped", "says"),
    [
        ("completed completed", False, "completed"),
        ("completed failed", True, "failed"),
        ("completed pending", False, "running"),
        ("completed running", True, "running"),
        ("completed pending", True, "interrupted"),
        ("failed pending", True, "interrupted"),
        ("pending", False, "running"),
    ],
)
def test_the_status_of_a_run_follows_from_its_tasks(statuses: str, stopped: bool, says: str) -> None:
    assert run_status([{"status": status} for status in statuses.split()], stopped=stopped) == says


def test_every_task_of_the_plan_has_a_row_in_its_order(tmp_path: Path) -> None:
    archive, plan = written(tmp_path, done(B), failed(A), tasks=(C, A, B))
    claim = Folder(tmp_path / "r").claim(archive.started_name(Attempt(C.task_id, 1, "001")))
    shown = Overview(archive, plan).render()
    claim.release()
    assert [task["task_id"] for task in shown["tasks"]] == [task.task_id for task in plan.tasks]
    assert [task["status"] for task in shown["tasks"]] == ["running", "failed", "completed"]
    assert [task["attempts"] for task in shown["tasks"]] == [1, 1, 1]
    assert (shown["run_id"], shown["status"], shown["simulated"]) == ("r", "running", False)


def test_a_row_has_the_same_keys_whatever_came_of_the_task() -> None:
    rows = [
        task_row(A),
        task_row(A, encode(done(A))),
        task_row(A, encode(failed(A))),
        task_row(A, encode(nan_result(A))),
    ]
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_a_failure_is_its_class_and_message_without_a_traceback() -> None:
    assert task_row(A, encode(failed(A)))["error"] == {"class": "auth", "message": "refused"}


def test_the_row_is_json_even_where_nothing_is_known() -> None:
    row = task_row(A, encode(nan_result(A)))
    assert json.loads(dumps(row))["gain"]["mean"] == {"$float": "nan"}


def test_the_figures_are_those_of_the_result() -> None:
    row = task_row(A, encode(done(A)))
    assert row["final"]["scores"]["test"]["mean"] == 0.75
    assert row["gain"]["mean"] == 0.25
    assert (row["spent"]["billed"]["usd"], row["seconds"], row["stop_reason"]) == (0.2, 12.0, "max_iterations")


@pytest.mark.parametrize("change", [{"model": "sim/standard"}, {"optimizer_model": "sim/x"}, {"judge_model": "sim/x"}])
def test_one_simulated_model_makes_a_row_simulated(change: dict) -> None:
    assert task_row(spec(**change))["simulated"]


def test_a_result_is_read_once_however_often_one_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, plan = written(tmp_path, done(A), tasks=(A, B))
    reads: list[str] = []
    read = archive.blobs.read
    monkeypatch.setattr(archive.blobs, "read", lambda name: (reads.append(name), read(name))[1])
    overview = Overview(archive, plan)
    assert overview.render() == overview.render()
    assert [name.split("/")[0] for name in reads].count("results") == 1


def pay(archive: RunArchive, attempt: Attempt, usd: float) -> None:
    """An attempt that began, and got one answer."""
    archive.blobs.write(archive.started_name(attempt), b"")
    paid = Entry(str(attempt), 0, Role.TASK, 1.0, Completion("a", Usage(3, 5), usd))
    with closing(archive.journal(attempt)) as append:
        append(dumps(paid) + "\n")


def test_what_a_task_has_paid_is_shown_whatever_came_of_it(tmp_path: Path) -> None:
    lost = TaskResult.of_failure(A, Failure(ErrorKind.CRASH, "died"), Spend(task_calls=1, usd=0.03125))
    archive, plan = written(tmp_path, lost, done(B), tasks=(A, B, C))
    overview = Overview(archive, plan)
    for name in ("001", "002"):
        pay(archive, Attempt(C.task_id, 1, name), 0.0625)
    shown = overview.render(stopped=True)
    assert [task["status"] for task in shown["tasks"]] == ["failed", "completed", "pending"]
    assert [task["paid"]["usd"] for task in shown["tasks"]] == [0.03125, 0.25, 0.125]
    assert [task["paid"]["task_calls"] for task in shown["tasks"]] == [1, 50, 2]
    assert shown["paid"] == {"usd": 0.40625, "usd_simulated": 0.0, "usd_preflight": 0.0}
    for table in (results(shown), tasks_table(shown), runs_table([shown])):
        said = io.StringIO()
        Console(file=said, width=120).print(table)
        assert "$0.4062" in said.getvalue()


def test_what_a_failed_task_paid_stands_when_it_is_begun_again(tmp_path: Path) -> None:
    archive, plan = written(tmp_path, failed(A), tasks=(A,))
    pay(archive, Attempt(A.task_id, 1, "001"), 0.25)
    archive.submit(Kind.RETRY, [A], "later")
    pay(archive, Attempt(A.task_id, 2, "002"), 0.5)
    assert Overview(archive, plan).render()["paid"]["usd"] == 0.75


def test_a_result_that_nobody_looked_at_leaves_the_money_unknown(tmp_path: Path) -> None:
    archive, plan = written(tmp_path, done(A), tasks=(A, B))
    shown = Overview(archive, plan, read=lambda names: {}).render()
    assert (shown["tasks"][0]["paid"], shown["paid"]["usd"]) == (None, None)


def test_a_new_look_sees_what_has_happened_since(tmp_path: Path) -> None:
    archive, plan = written(tmp_path, failed(A), tasks=(A,))
    overview = Overview(archive, plan)
    assert overview.render()["status"] == "failed"
    archive.submit(Kind.RETRY, [A], "later")
    assert overview.render(stopped=True)["status"] == "interrupted"
    archive.save_result(Attempt(A.task_id, 2, "002"), done(A))
    assert overview.render()["tasks"][0]["status"] == Status.COMPLETED
