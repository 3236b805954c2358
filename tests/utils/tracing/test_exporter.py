"""Real runs, the real SDK, a strict server: everything arrives, once, whatever happens; and nobody waits for it."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.servers.opik_server import OpikServer
from tests.utils.tracing.runs import RUN, Run, assert_whole, billed_in, held, target_of, task
from tests.waiting import PATIENCE_S, ended, until
from utils.archive import Attempt, RunArchive
from utils.errors import UsageError
from utils.journal import read_lines
from utils.records import Status, TaskResult, TaskSpec
from utils.tracing import exporter
from utils.tracing.client import OpikClient, Undelivered
from utils.tracing.delivery import read_traced
from utils.tracing.exporter import Exporter, Left, default_items, parse_items, prepare, push
from utils.tracing.rows import Sampling
from utils.tracing.target import Target, experiment_link

QUICK = (0.05, 0.1)


def pushed(run: Run, server: OpikServer, **more: Any) -> Left:
    return push(run.archive, run.plan, target_of(server), pauses_s=(), **more)


def exporting(run: Run, server: OpikServer, **more: Any) -> Exporter:
    return Exporter(target_of(server), run.archive, run.plan.created, look_every_s=0.05, pauses_s=QUICK, **more)


def results(run: Run) -> dict[str, TaskResult]:
    states = run.archive.states(run.plan.tasks)
    return {task_id: run.archive.load_result(state.result) for task_id, state in states.items() if state.result}


def last_attempt(run: Run, spec: TaskSpec) -> Attempt:
    return run.archive.states([spec])[spec.task_id].attempts[-1]


def export(run: Run, server: OpikServer, deadline_s: float = PATIENCE_S) -> Left:
    """All of a finished run, by the thread."""
    thread = exporting(run, server)
    for spec in run.plan.tasks:
        thread.started(spec, last_attempt(run, spec), ())
    for spec in run.plan.tasks:
        thread.finished(spec, results(run)[spec.task_id])
    return thread.close(deadline_s)


def assert_complete(run: Run, server: OpikServer) -> None:
    assert held(server) == run.counts()
    assert_whole(server)


# --------------------------------------------------------------------------- a grid


@pytest.mark.parametrize("way", [pushed, export])
def test_counts_are_those_of_the_run_s_own_records(
    way: Callable[[Run, OpikServer], Left], grid: Run, server: OpikServer
) -> None:
    left = way(grid, server)
    assert (left.left, left.reason, left.sent) == (0, "", grid.counts()["traces"])
    assert_complete(grid, server)
    assert held(server)["optimizations"] == 9
    found, billed = billed_in(server), grid.billed()
    assert found == pytest.approx(billed, abs=1e-9)
    assert {name: round(found[name]) for name in found if name != "usd"} == {
        name: round(billed[name]) for name in billed if name != "usd"
    }
    assert server.summary()["repeated"] == {}
    assert {row["status"] for row in server.rows("optimizations")} == {"completed"}
    assert all("finished_at" in row for row in server.rows("experiments"))


def test_nothing_is_sent_while_a_run_begins_and_everything_when_it_is_over(one: Run, server: OpikServer) -> None:
    (spec,) = one.plan.tasks
    thread = exporting(one, server, quiet_s=10 * PATIENCE_S)
    thread.started(spec, last_attempt(one, spec), ())
    thread.finished(spec, results(one)[spec.task_id])
    assert server.state.requests == []
    assert thread.close(PATIENCE_S).left == 0
    assert_complete(one, server)


def test_a_second_push_sends_nothing(one: Run, server: OpikServer) -> None:
    pushed(one, server)
    before = len(server.state.requests)
    assert pushed(one, server) == Left(0, 0, "")
    assert [row["path"] for row in server.state.requests[before:]] == ["v1/private/auth"]


def test_another_server_gets_all_of_it(one: Run, server: OpikServer) -> None:
    pushed(one, server)
    with OpikServer(strict=True) as second:
        assert pushed(one, second).left == 0
        assert_complete(one, second)
    assert pushed(one, server).left == 0  # once more, since what the first one has is forgotten by now
    assert_complete(one, server)


def test_everything_sent_again_stands_once(one: Run, server: OpikServer) -> None:
    pushed(one, server)
    for path in (one.root / RUN / "traced").iterdir():
        path.unlink()
    pushed(one, server)
    assert_complete(one, server)
    assert server.summary()["repeated"]["span"] == one.counts()["spans"]


def test_the_tree_of_an_example(one: Run, server: OpikServer) -> None:
    pushed(one, server)
    spec = one.plan.tasks[0]
    result = one.archive.load_details(one.archive.states([spec])[spec.task_id].result)
    assert result.final
    tests = {item.example_id: item for item in result.items["final"]}
    found = [
        row
        for row in server.rows("traces")
        if row["metadata"].get("prompt_id") == result.final.prompt.id and row["metadata"]["split"] == "test"
    ]
    assert {row["metadata"]["example_id"] for row in found} == set(tests)
    for row in found:
        item = tests[row["metadata"]["example_id"]]
        assert item.score
        assert row["output"]["output"] == item.answer
        scores = server.state.scores_of("trace", row["id"])
        assert [(one["name"], one["value"]) for one in scores] == [("numeric_match", item.score.value)]
        spans = server.rows("spans", trace_id=row["id"])
        assert [span["type"] for span in spans] == ["llm"]
        assert spans[0]["input"]["messages"][0]["content"].startswith(result.final.prompt.system[:20])
        assert "simulated" in row["tags"]


def test_candidates_carry_what_the_pages_read(one: Run, server: OpikServer) -> None:
    pushed(one, server)
    known = {row["metadata"]["candidate_id"]: row["metadata"] for row in server.rows("experiments")}
    baseline = [row for row in known.values() if row["step_index"] == 0]
    assert len(baseline) == 1
    parents = {parent for row in known.values() for parent in row["parent_candidate_ids"]}
    assert parents <= set(known)
    assert parents
    assert {row["type"] for row in server.rows("experiments")} == {"trial", "mini-batch", "regular"}


def test_an_optimizer_that_does_nothing_shows_no_gain(grid: Run, server: OpikServer) -> None:
    """As the backend works it out: of each candidate the mean over its trials; the first and the best of these."""
    pushed(grid, server)
    idle = [spec.task_id for spec in grid.plan.tasks if spec.optimizer == "no_op"]
    assert idle
    for task_id in idle:
        (optimization,) = (row["id"] for row in server.rows("optimizations") if row["metadata"]["task_id"] == task_id)
        candidates: dict[str, list[float]] = {}
        for row in server.rows("experiments", optimization_id=optimization):
            if row["type"] != "mini-batch":
                candidates.setdefault(row["metadata"]["candidate_id"], []).append(row["metadata"]["mean"])
        (means,) = candidates.values()
        assert len(means) == 1, "validation alone"
    tests = [row for row in server.rows("experiments") if row["metadata"]["split"] == "test"]
    assert {row["type"] for row in tests} == {"regular"}
    assert all(row.get("optimization_id") is None for row in tests)
    assert {row["metadata"]["task_id"] for row in tests} == {spec.task_id for spec in grid.plan.tasks}


@pytest.mark.parametrize("second", [{"workspace": "theirs"}, {"project": "another"}])
def test_a_run_that_another_workspace_or_project_has_stands_there_as_well(
    second: dict[str, str], one: Run, server: OpikServer
) -> None:
    """The backend looks ids up over all workspaces, and refuses what another one holds."""
    first = pushed(one, server)
    before = held(server)
    again = push(one.archive, one.plan, replace(target_of(server), **second), pauses_s=())
    assert again == first
    assert held(server) == {name: 2 * count for name, count in before.items()}
    assert_whole(server)


def test_links_lead_to_their_pages(one: Run, server: OpikServer) -> None:
    links = prepare(one.archive, one.plan, target_of(server))
    pushed(one, server)
    spec = one.plan.tasks[0]
    known = read_traced(one.archive, spec.task_id)
    assert known
    assert links == {spec.task_id: known.link}
    experiment = server.rows("experiments")[0]["id"]
    for link in (known.link, experiment_link(target_of(server), experiment, known.dataset)):
        with urllib.request.urlopen(link) as page:
            assert page.status == 200


def test_datasets_are_made_before_anything_refers_to_them_and_once(grid: Run, server: OpikServer) -> None:
    prepare(grid.archive, grid.plan, target_of(server))
    assert [server.summary()[name] for name in ("datasets", "optimizations")] == [3, 0]
    pushed(grid, server)
    answers = server.summary()["answers"]
    assert answers["PUT v1/private/datasets/items 204"] == 3
    assert "dataset item" not in server.summary()["repeated"]


def test_no_key_reaches_a_file_of_the_run(one: Run, tmp_path: Path) -> None:
    with OpikServer(strict=True, key="hush") as server:
        assert pushed(one, server).left == 1  # no key is a wrong key
        assert push(one.archive, one.plan, target_of(server, api_key="hush")).left == 0
        assert_complete(one, server)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"hush" in path.read_bytes() for path in files)


def test_a_judge_s_calls_are_spans_of_the_answers_they_judge(tmp_path: Path, server: OpikServer) -> None:
    run = Run.planned(tmp_path, [task("no_op", metric="llm_judge")])
    spec = run.plan.tasks[0]
    run.attempt(spec, run.begin(spec))
    pushed(run, server)
    assert_complete(run, server)
    spans = server.rows("spans")
    roles = {
        row["id"]: [span["metadata"]["role"] for span in spans if span["trace_id"] == row["id"]]
        for row in server.rows("traces")
    }
    assert {tuple(each) for each in roles.values()} == {("task", "judge")}
    assert billed_in(server) == pytest.approx(run.billed(), abs=1e-9)


def test_an_item_in_error_has_no_score(tmp_path: Path, server: OpikServer) -> None:
    run = Run.planned(tmp_path, [task("no_op", model_params={"content_filter": 0.05})])
    spec = run.plan.tasks[0]
    run.attempt(spec, run.begin(spec))
    counts = run.counts()
    assert counts["scores"] < counts["traces"]
    pushed(run, server)
    assert_complete(run, server)
    failed = [row for row in server.rows("traces") if row.get("error_info")]
    assert len(failed) == counts["traces"] - counts["scores"]
    assert {row["error_info"]["exception_type"] for row in failed} == {"content_filter"}


def test_a_failed_task_is_there_with_its_error(tmp_path: Path, server: OpikServer) -> None:
    run = Run.planned(tmp_path, [task("no_op", model_params={"content_filter": 0.5})])
    spec = run.plan.tasks[0]
    result = run.attempt(spec, run.begin(spec))
    assert result
    assert result.status is Status.FAILED
    pushed(run, server)
    assert_complete(run, server)
    row = server.rows("optimizations")[0]
    assert (row["status"], row["error_info"]["exception_type"]) == ("error", "content_filter")
    assert result.error
    assert row["error_info"]["message"] == result.error.message


# --------------------------------------------------------------------------- followed while it runs


def test_a_task_is_followed_while_it_runs(tmp_path: Path, server: OpikServer) -> None:
    run = Run.planned(tmp_path, [task("hill_climb"), task("thompson")])
    thread = exporting(run, server)
    for spec in run.plan.tasks:
        now = run.begin(spec)
        thread.started(spec, now, ())
        told = count()

        def tell(progress: object, spec: TaskSpec = spec, told: Iterator[int] = told) -> None:
            if next(told) == 30:
                until(lambda: thread.link(spec.task_id))

        result = run.attempt(spec, now, tell=tell)
        assert result
        thread.finished(spec, result)
    assert thread.close(PATIENCE_S) == Left(run.counts()["traces"], 0, "")
    assert_complete(run, server)
    assert not thread.is_alive
    assert any(row["path"].endswith("traces/batch") for row in server.state.requests[:20])


def test_what_is_followed_is_what_is_pushed(climbed: Run, tmp_path: Path) -> None:
    """The same rows, but that a push knows of parents that were told later."""
    tables: list[dict[str, Any]] = []
    for number, way in enumerate((export, pushed)):
        with OpikServer(strict=True) as server:
            run = climbed.copied(tmp_path / str(number))
            way(run, server)
            tables.append({name: {row["id"]: row for row in server.rows(name)} for name in ("traces", "spans")})
            tables[-1] |= {name: {row["id"] for row in server.rows(name)} for name in ("experiments", "optimizations")}
    for table in tables:
        for name in ("traces", "spans"):
            for row in table[name].values():
                row.pop("project_id")
    assert tables[0] == tables[1]


class Killed(BaseException):
    """Stands for a kill."""


def interrupted(run: Run, after: int, number: int = 1, torn: bool = True) -> None:
    """An attempt that is killed after so many answers, in the middle of a line."""
    spec = run.plan.tasks[0]
    now = run.begin(spec, number)
    seen = 0

    def tell(progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen > after:
            raise Killed

    with pytest.raises(Killed):
        run.attempt(spec, now, tell=tell)
    for folder in ("journal", "trace"):
        path = run.path(folder, now)
        if torn and path.exists():
            path.write_bytes(path.read_bytes() + b'{"trial":{"items":["\xc3')


@pytest.mark.parametrize("after", [3, 17, 40, 58])
def test_a_killed_task_arrives_once_after_its_resume(after: int, tmp_path: Path, server: OpikServer) -> None:
    run = Run.planned(tmp_path, [task("hill_climb")])
    spec = run.plan.tasks[0]
    interrupted(run, after)
    assert pushed(run, server).left == 0
    assert_whole(server)
    assert server.rows("optimizations")[0]["status"] == "cancelled"
    assert len(server.state.spans) == run.counts()["spans"]
    earlier = run.archive.states([spec])[spec.task_id].attempts
    now = run.begin(spec, 2)
    thread = exporting(run, server)
    thread.started(spec, now, earlier)
    result = run.attempt(spec, now, *earlier)
    assert result
    thread.finished(spec, result)
    assert thread.close(PATIENCE_S).left == 0
    assert_complete(run, server)
    assert server.rows("optimizations")[0]["status"] == "completed"
    assert pushed(run, server) == Left(0, 0, "")
    assert billed_in(server) == pytest.approx(run.billed(), abs=1e-9)


def test_a_thread_that_is_closed_over_a_running_task_says_that_it_was_stopped(
    tmp_path: Path, server: OpikServer
) -> None:
    run = Run.planned(tmp_path, [task("hill_climb")])
    thread = exporting(run, server)
    interrupted(run, 30)
    thread.started(run.plan.tasks[0], last_attempt(run, run.plan.tasks[0]), ())
    assert thread.close(PATIENCE_S).left == 0
    assert server.rows("optimizations")[0]["status"] == "cancelled"


def test_a_call_that_a_retry_asked_again_is_scored_in_its_place(one: Run, server: OpikServer) -> None:
    run, spec = one, one.plan.tasks[0]
    first = run.archive.states([spec])[spec.task_id].attempts[0]
    victim = next(iter(read_lines(run.path("journal", first).read_text(), "x")))

    def failed(folder: str, record: dict[str, Any]) -> dict[str, Any]:
        if folder == "journal" and (record["key"], record["occurrence"]) == (victim.key, victim.occurrence):
            return {**record, "completion": None, "failed": {"kind": "transient", "message": "lost", "attempts": 6}}
        for mark in record.get("trial", {}).get("marks", ()):
            if folder == "trace" and (record["trial"]["prompt_id"], mark["item"]) == (victim.prompt, victim.item):
                mark |= {"value": None, "error": "transient", "message": "lost", "reason": ""}
        return record

    run.edit(failed)
    pushed(run, server)
    assert_complete(run, server)
    now = run.begin(spec, 2, submission=2)
    run.attempt(spec, now, first, retried_at=2)
    pushed(run, server)
    assert_complete(run, server)
    assert held(server)["scores"] == held(server)["traces"] - sum(
        "optimizer model" in row["tags"] for row in server.rows("traces")
    )


# --------------------------------------------------------------------------- a server that misbehaves

FAULTS: dict[str, list[dict[str, Any]]] = {
    "500": [{"path": "private", "status": 500}],
    "429 without a reset": [{"path": "private", "status": 429}],
    "429 for a minute": [{"path": "traces/batch", "status": 429, "headers": {"RateLimit-Reset": "60"}}],
    "hangs": [{"path": "spans/batch", "hang": 10 * PATIENCE_S}],
    "closes": [{"path": "private", "drop": True}],
    "replies lost after commit": [{"path": "batch|score|items|experiment|optimiz", "drop": True, "apply": True}],
    "spans lost after commit": [{"path": "spans/batch", "drop": True, "apply": True}],
    "a proxy's page": [{"path": "spans/batch", "status": 502}],
    "refuses the key": [{"path": "private", "status": 401}],
    "forbids": [{"path": "traces/batch", "status": 403}],
    "refuses the rows": [{"path": "spans/batch", "status": 400}],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_server_costs_no_more_than_the_deadline_and_a_push_completes_it(
    fault: str, one: Run, server: OpikServer
) -> None:
    server.faults(FAULTS[fault])
    left = ended(lambda: export(one, server, deadline_s=0.5))
    assert left.left == 1
    assert left.reason
    assert f"--run-id {RUN} --push-traces" in left.line(RUN)
    server.faults([])
    assert pushed(one, server).left == 0
    assert_complete(one, server)
    assert billed_in(server) == pytest.approx(one.billed(), abs=1e-9)


def test_a_thread_that_died_is_not_waited_for(one: Run, server: OpikServer) -> None:
    server.faults(FAULTS["refuses the key"])
    assert ended(lambda: export(one, server, deadline_s=10 * PATIENCE_S)).left == 1
    assert sum(row["status"] == 401 for row in server.state.requests) == 1


def test_a_pause_that_the_server_asks_for_beyond_the_deadline_is_not_sat_out(one: Run, server: OpikServer) -> None:
    server.faults(FAULTS["429 for a minute"])
    thread = exporting(one, server, clock=lambda: 0.0)  # whoever waits for a time to come waits for ever
    spec = one.plan.tasks[0]
    thread.started(spec, last_attempt(one, spec), ())
    assert thread.close(30).left == 1
    assert not thread.is_alive
    assert sum(row["status"] == 429 for row in server.state.requests) == 1


def test_a_thread_without_tasks_asks_nothing(one: Run, server: OpikServer) -> None:
    thread = exporting(one, server)
    assert thread.close(PATIENCE_S) == Left()
    assert server.state.requests == []


def test_a_task_that_stands_still_is_looked_at_and_nothing_is_sent(
    one: Run, server: OpikServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    read_on = RunArchive.read_on
    monkeypatch.setattr(RunArchive, "read_on", lambda *asked: (looks.append(asked), read_on(*asked))[1])
    thread = exporting(one, server)
    spec = one.plan.tasks[0]
    thread.started(spec, last_attempt(one, spec), ())
    until(lambda: thread.link(spec.task_id))
    before, seen = len(server.state.requests), len(looks)
    until(lambda: len(looks) > seen + 6)  # some looks more
    assert len(server.state.requests) == before
    thread.finished(spec, results(one)[spec.task_id])
    assert thread.close(PATIENCE_S).left == 0
    assert_complete(one, server)


def test_a_server_that_is_back_gets_the_rest(one: Run, server: OpikServer) -> None:
    failed = threading.Event()

    class Failing(OpikClient):
        def check(self) -> None:
            try:
                super().check()
            except Undelivered:
                failed.set()
                raise

    with server.down():
        thread = exporting(one, server, connect=Failing)
        spec = one.plan.tasks[0]
        thread.started(spec, last_attempt(one, spec), ())
        until(failed.is_set)
    until(lambda: thread.link(spec.task_id))
    thread.finished(spec, results(one)[spec.task_id])
    assert thread.close(PATIENCE_S) == Left(one.counts()["traces"], 0, "")
    assert_complete(one, server)


def test_a_server_that_fails_now_and_then_gets_all(grid: Run, server: OpikServer) -> None:
    server.faults(
        [
            {"path": "private", "status": 503, "p": 0.1, "count": 20},
            {"path": "batch|scores|items", "drop": True, "apply": True, "p": 0.2, "count": 20},
        ]
    )
    left = push(grid.archive, grid.plan, target_of(server), pauses_s=(0.0,) * 41)  # more than there are faults
    assert left.left == 0
    assert_complete(grid, server)


def test_one_row_that_is_not_wanted_costs_no_other(one: Run, server: OpikServer) -> None:
    """The backend refuses a whole batch for it."""

    class Picky(OpikClient):
        def put(self, table: Any, rows: Any) -> None:
            if table == "traces" and any(row["id"] == victim for row in rows):
                raise Undelivered("400 not this one", 400)
            super().put(table, rows)

    with OpikServer() as elsewhere:
        pushed(one.copied(one.root / "elsewhere"), elsewhere)
        victim = next(row["id"] for row in elsewhere.rows("traces") if "prompt_id" in row["metadata"])
    left = pushed(one, server, connect=Picky)
    assert (left.left, left.reason) == (1, "400 not this one")
    assert_whole(server)
    assert held(server)["traces"] == one.counts()["traces"] - 1
    assert pushed(one, server).left == 0
    assert_complete(one, server)


def test_a_push_gives_up_on_a_server_that_is_away(grid: Run, server: OpikServer) -> None:
    with server.down():
        naps: list[float] = []
        left = push(grid.archive, grid.plan, target_of(server), pauses_s=(1, 5), sleep=naps.append)
    assert (left.left, naps) == (9, [1, 5])


@pytest.mark.parametrize("way", [pushed, export])
def test_a_task_that_is_refused_holds_up_no_other(
    way: Callable[[Run, OpikServer], Left], grid: Run, server: OpikServer
) -> None:
    server.faults([{"path": "optimizations$", "method": "POST", "status": 400, "count": 2}])
    left = way(grid, server)
    assert left.left <= 2
    assert "400" in left.reason
    assert pushed(grid, server).left == 0
    assert_complete(grid, server)


def test_tasks_that_still_run_elsewhere_are_left_alone(grid: Run, server: OpikServer) -> None:
    busy = grid.plan.tasks[0].task_id
    left = pushed(grid, server, busy={busy})
    assert (left.left, held(server)["optimizations"]) == (1, 8)
    assert left.reason == f"task {busy} still runs"


@pytest.mark.parametrize("is_done", [False, True])
def test_a_kill_at_any_moment_of_sending_loses_and_doubles_nothing(is_done: bool, climbed: Run, tmp_path: Path) -> None:
    """Whoever sends is gone at its n-th call, before or after the server has done what was asked."""
    for number in range(100):
        run = climbed.copied(tmp_path / str(number))
        with OpikServer(strict=True) as server:
            try:
                pushed(run, server, connect=lambda target, left=number: Mortal(target, left, is_done))
                survived = True
            except Killed:
                survived = False
            assert pushed(run, server).left == 0
            assert_complete(run, server)
            assert server.rows("optimizations")[0]["status"] == "completed"
        if survived:
            assert number > 10
            return


class Mortal(OpikClient):
    """A client whose process is killed at a call."""

    def __init__(self, target: Target, left: int, is_done: bool) -> None:
        super().__init__(target)
        self.left, self.is_done = left, is_done

    def _call(self, call: Callable[[], Any]) -> Any:
        if self.left == 0:
            if self.is_done:
                super()._call(call)
            raise Killed
        self.left -= 1
        return super()._call(call)


def test_a_run_without_its_rows_is_refused_with_the_way_out(one: Run, server: OpikServer) -> None:
    for path in (one.root / RUN / "data").iterdir():
        path.unlink()
    assert "resume it" in pushed(one, server).reason
    assert export(one, server).left == 1


def test_a_defect_costs_the_traces_and_is_told(one: Run, server: OpikServer) -> None:
    def defect(target: Target) -> Any:
        raise RuntimeError("no such thing")

    thread = exporting(one, server, connect=defect)
    spec = one.plan.tasks[0]
    thread.started(spec, last_attempt(one, spec), ())
    assert ended(lambda: thread.close(10 * PATIENCE_S)) == Left(0, 1, "RuntimeError: no such thing")


# --------------------------------------------------------------------------- late


def aged(run: Run, days: float) -> None:
    """As if it had all been so many days ago."""

    def older(folder: str, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "at": record["at"] - days * 86400} if folder == "journal" and "at" in record else record

    run.edit(older)


def test_an_old_run_gets_ids_of_today_once(one: Run, server: OpikServer) -> None:
    aged(one, 30)
    assert pushed(one, server).left == 0
    assert held(server) == one.counts()
    assert not any(server.summary()[name] for name in ("doubled", "orphan_spans", "dangling_items", "unknown"))
    assert all("days" not in problem for problem in server.state.problems)
    starts = {row["start_time"][:10] for row in server.rows("traces")}
    assert max(starts) < time.strftime("%Y-%m-%d", time.gmtime(time.time() - 20 * 86400))
    assert pushed(one, server) == Left(0, 0, "")
    assert held(server) == one.counts()


def test_a_backend_that_takes_any_age_keeps_the_ids_of_the_records(one: Run) -> None:
    with OpikServer(strict=True, window_h=0) as server:
        aged(one, 30)
        pushed(one, server)
        assert_complete(one, server)
        known = read_traced(one.archive, one.plan.tasks[0].task_id)
        assert known
        assert known.dates == {}


@pytest.mark.parametrize("lost", ["traces/batch", "spans/batch", "feedback-scores", "experiments/items"])
@pytest.mark.parametrize("arrived", [True, False])
def test_what_was_begun_and_is_too_old_by_now_is_asked_for_first(
    lost: str, arrived: bool, one: Run, server: OpikServer
) -> None:
    """The first push got no reply, to a request that was taken or not; the second comes when all is too old."""
    server.state.window_h = 0
    aged(one, 30)
    server.faults([{"path": lost, "drop": True, "apply": arrived}])
    assert pushed(one, server).left == 1
    server.faults([])
    server.state.window_h = 24
    assert pushed(one, server).left == 0
    assert held(server) == one.counts()
    summary = server.summary()
    assert not any(summary[name] for name in ("doubled", "orphan_spans", "orphan_scores", "dangling_items"))


def test_dates_of_today_are_kept_for_the_next_try(one: Run, server: OpikServer) -> None:
    aged(one, 30)
    server.faults([{"path": "spans/batch", "drop": True, "apply": True, "count": 1}])
    assert pushed(one, server).left == 1
    server.faults([])
    assert pushed(one, server).left == 0
    assert held(server) == one.counts()


# --------------------------------------------------------------------------- samples


@pytest.mark.parametrize("items", [Sampling(only_failures=True), Sampling(most=3), Sampling(most=0)])
def test_a_sample_leaves_out_examples_and_no_candidate(items: Sampling, one: Run, server: OpikServer) -> None:
    assert pushed(one, server, items=items).left == 0
    found, whole = held(server), one.counts()
    assert_whole(server)
    assert found["experiments"] == whole["experiments"]
    assert found["traces"] < whole["traces"]
    asks = sum("optimizer model" in row["tags"] for row in server.rows("traces"))
    assert asks == sum(entry["role"] == "optimizer" for entry in one.lines("journal", one.plan.tasks[0].task_id))
    assert all(row["metadata"]["n"] > 0 for row in server.rows("experiments"))
    assert pushed(one, server).left == 0
    assert_complete(one, server)


def test_items_are_named_on_the_command_line() -> None:
    assert [str(parse_items(text)) for text in ("all", "failures", "25")] == ["all", "failures", "25"]
    for text in ("some", "-1", "1.5", ""):
        with pytest.raises(UsageError, match="give all, failures, or a number"):
            parse_items(text)


def test_large_runs_send_a_few_examples_of_each_candidate() -> None:
    assert str(default_items(exporter.ITEMS_ALL)) == "all"
    assert str(default_items(exporter.ITEMS_ALL + 1)) == str(exporter.ITEMS_OF_MANY)


def test_what_was_taken_is_a_small_file(one: Run, server: OpikServer) -> None:
    pushed(one, server)
    path = one.root / RUN / "traced" / f"{one.plan.tasks[0].task_id}.json"
    assert path.stat().st_size < 60 * one.counts()["traces"]
    assert json.loads(path.read_text())["sent"] == one.counts()["traces"]
