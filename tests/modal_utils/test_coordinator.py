"""Runs on Modal by the real commands: submitted, left alone, killed, stopped, cancelled, retried, extended, refused.

One control plane serves most tests, each with a run of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import modal
import pytest
from rich.console import Console

from modal_utils import coordinator
from modal_utils.coordinator import FULL_S, Recorder, patiently, spawn_all
from modal_utils.deployment import DEPLOY
from modal_utils.storage import Calls, load_calls, save_calls
from tests.modal_utils.command import HIDDEN, ROOT, Cloud, checkout, client_of, cloud, outcomes, statuses
from tests.servers.modal import running
from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S, until
from utils.archive import Attempt, Folder, Kind, RunArchive
from utils.errors import Unreachable, UsageError
from utils.journal import Entry, read_lines
from utils.llm import litellm_engine
from utils.records import RunPlan, Status, StopReason, TaskResult, TaskSpec

GRID = ["--data", "sample", "--test-mode", "--demo-datasets", "gsm8k", "--optimizers", "no_op", "--yes", "--models"]
SMALL = [*GRID, "sim/standard"]
KEY = "sk-nobody-may-see-this"
REAL = "openai/gpt-4o-mini"


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, server: OpenAIServer) -> Iterator[Cloud]:
    keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
    with cloud(tmp_path_factory.mktemp("plane"), secrets={"llm-api-keys": keys}, max_procs=6) as deployed:
        yield deployed


@pytest.fixture
def deployed(plane: Cloud, server: OpenAIServer) -> Iterator[Cloud]:
    """The control plane; faults of one test do not reach the next, nor does what it holds."""
    yield plane
    plane.plane.faults([])
    server.gate.open()


def cancel(deployed: Cloud, server: OpenAIServer, run_id: str) -> str:
    """Cancel a run with one task at work, whose calls are held; what is in flight is answered once it was told."""
    before = deployed.interrupted
    said = deployed.run("run_benchmark.py", "--modal", "--cancel-run-id", run_id)
    until(lambda: deployed.interrupted > before)
    server.gate.open()
    until(lambda: not deployed.open_inputs)
    server.gate.hold()
    return said


def hold_spawns(deployed: Cloud, *, spared: int) -> None:
    """Only so many of the next calls come through; preflight is one more."""
    deployed.plane.faults([{"rpc": "FunctionMap", "skip": spared + 1, "gathers": sys.maxsize, "times": 10_000}])


def seeds(count: int) -> list[str]:
    return ["--seeds", *map(str, range(1, count + 1))]


def results(archive: RunArchive) -> Counter[str]:
    """How many results each task has."""
    return Counter(name.partition("@")[0] for name in archive.blobs.list("results"))


def lines(archive: RunArchive) -> Counter[tuple[str, str, int]]:
    """How often each call of each task was answered."""
    found: Counter[tuple[str, str, int]] = Counter()
    for name in archive.blobs.list("journal"):
        for entry in read_lines(archive.blobs.read(f"journal/{name}").decode(), name):
            if isinstance(entry, Entry) and entry.completion:
                found[name.partition("@")[0], entry.key, entry.occurrence] += 1
    return found


def was_run_once(archive: RunArchive, tasks: int) -> bool:
    return results(archive).total() == len(results(archive)) == tasks and set(lines(archive).values()) == {1}


# --------------------------------------------------------------------------- patience


class Full:
    """A queue that is full so often."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.slept: list[float] = []

    async def call(self) -> str:
        if self.left:
            self.left -= 1
            raise modal.exception.ResourceExhaustedError("full")
        return "taken"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def wait_for(call: Callable[[], Awaitable[Any]], sleep: Callable[[float], Awaitable[None]]) -> Any:
    async def waiting() -> Any:
        return await patiently(call, sleep)

    return asyncio.run(waiting())


def test_a_full_queue_is_asked_again_after_longer_and_longer_pauses() -> None:
    queue = Full(7)
    assert wait_for(queue.call, queue.sleep) == "taken"
    assert queue.slept == [1, 2, 4, 8, 16, 30, 30]


def test_a_queue_that_stays_full_is_given_up_in_time_with_the_way_to_go_on() -> None:
    queue = Full(1000)
    with pytest.raises(UsageError, match=r"no more calls for \d+ s: full; look at the workspace's usage"):
        wait_for(queue.call, queue.sleep)
    assert FULL_S <= sum(queue.slept) < FULL_S + 30


def test_ids_that_could_not_be_written_down_are_written_the_next_time(tmp_path: Path) -> None:
    class Away(Folder):
        tries = 0

        def create(self, name: str, content: bytes) -> None:
            self.tries += 1
            if self.tries == 1:
                raise Unreachable("away")
            super().create(name, content)

    archive = RunArchive(Away(tmp_path), "r")
    recorder = Recorder(archive, Console(quiet=True))
    recorder.begin(1, "fu-1", 2)
    recorder.add("one", "fc-1")
    with pytest.raises(Unreachable):
        recorder.save()
    recorder.add("two", "fc-2")
    recorder.save()
    assert [calls.ids for calls in load_calls(archive)] == [{"one": "fc-1", "two": "fc-2"}]


@pytest.mark.parametrize("turns", range(1, 9))  # of the event loop
def test_a_ctrl_c_in_the_last_moment_waits_until_the_ids_are_written(turns: int, tmp_path: Path) -> None:
    archive = RunArchive(Folder(tmp_path), "r")
    recorder = Recorder(archive, Console(quiet=True))
    recorder.begin(1, "fu-1", 1)
    recorder.add("one", "fc-1")

    async def interrupted() -> None:
        submitting = asyncio.create_task(spawn_all(None, [], recorder))
        for _ in range(turns):
            await asyncio.sleep(0)
        submitting.cancel()
        await submitting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert [calls.ids for calls in load_calls(archive)] == [{"one": "fc-1"}]


def test_other_refusals_are_not_waited_out() -> None:
    queue = Full(0)

    async def refuse() -> None:
        raise modal.exception.NotFoundError("gone")

    with pytest.raises(modal.exception.NotFoundError):
        wait_for(refuse, queue.sleep)
    assert queue.slept == []


class Slow:
    """A call that gives its answer at so manyth time of asking."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.asked: list[float] = []

    def get(self, timeout: float) -> str:
        self.asked.append(timeout)
        if len(self.asked) < self.left:
            raise TimeoutError
        return "here"


def test_a_first_image_that_takes_ten_minutes_is_waited_for_and_said() -> None:
    said: list[str] = []
    quick, slow, never = Slow(1), Slow(2), Slow(9)
    assert coordinator.first_answer(quick.get, said.append) == "here"
    assert said == []
    assert coordinator.first_answer(slow.get, said.append) == "here"
    assert sum(slow.asked) > 600
    (line,) = said
    assert "the image of a new deployment may take 10 minutes" in line
    with pytest.raises(TimeoutError):
        coordinator.first_answer(never.get, said.append)


# --------------------------------------------------------------------------- a grid


def local_overview(folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "run_benchmark.py", *words, "--run-id", "here", "--checkpoint-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    found: dict[str, Any] = json.loads((folder / "here" / "checkpoint.json").read_text())
    return found


def is_the_same_grid(deployed: Cloud, tmp_path: Path, run_id: str, grid: str, tasks: int) -> None:
    words = f"--data sample --test-mode {grid} --max-concurrent 2 --yes".split()
    said = deployed.submit(*words, "--run-id", run_id)
    assert f"run {run_id}: {tasks} tasks submitted; this command is not needed any more" in said
    assert f"python check_results.py --modal --run-id {run_id} --watch" in said
    assert "note: what is deployed is not" not in said
    there = deployed.wait(run_id)
    here = local_overview(tmp_path, *words)
    assert there["status"] == here["status"] == "completed"
    assert len(there["tasks"]) == tasks
    assert outcomes(there) == outcomes(here)
    assert was_run_once(deployed.archive(run_id), tasks)


def test_a_grid_on_modal_gives_the_results_of_the_same_grid_here(deployed: Cloud, tmp_path: Path) -> None:
    lists = "--demo-datasets gsm8k ai2_arc --optimizers no_op few_shot hill_climb evolutionary_optimizer --seeds 1 2"
    is_the_same_grid(deployed, tmp_path, "same", f"{lists} --models sim/standard", 16)


@pytest.mark.trial
def test_so_do_200_tasks(deployed: Cloud, tmp_path: Path) -> None:
    lists = "--demo-datasets gsm8k ai2_arc hotpot_300 truthful_qa --seeds 1 2 3 4 5 --models sim/standard sim/weak"
    optimizers = "--optimizers no_op few_shot hill_climb evolutionary_optimizer meta_prompt"
    is_the_same_grid(deployed, tmp_path, "large", f"{lists} {optimizers}", 200)


def test_each_of_two_runs_keeps_its_own_number_of_containers(deployed: Cloud, server: OpenAIServer) -> None:
    server.gate.hold()
    words = [*GRID, REAL, *seeds(5)]
    before = {function["id"] for function in deployed.plane.state()["functions"]}
    for run_id, limit in (("narrow", "1"), ("wide", "3")):
        deployed.submit(*words, "--run-id", run_id, "--max-concurrent", limit, "--max-in-flight", limit)
    until(lambda: server.gate.held == 4)
    server.gate.open()
    assert deployed.wait("narrow")["status"] == deployed.look("wide")["status"] == "completed"
    pools = [pool for pool in deployed.plane.state()["functions"] if pool["id"] not in before]
    peaks = {pool["max_containers"]: pool["peak_containers"] for pool in pools if pool["name"] == "run_task"}
    assert peaks == {1: 1, 3: 3}


def test_a_run_that_was_finished_has_nothing_to_do_and_one_that_is_asked_for_more_is_extended(deployed: Cloud) -> None:
    deployed.submit(*SMALL, *seeds(1), "--run-id", "grows")
    first = deployed.wait("grows")
    calls = len(deployed.calls())
    assert "nothing to do, every task is final" in deployed.submit(*SMALL, *seeds(1), "--run-id", "grows")
    assert json.loads(deployed.submit("--resume-run-id", "grows", "--json").splitlines()[0])["submitted"] == 0
    assert len(deployed.calls()) == calls
    assert "run grows: 2 tasks submitted" in deployed.submit(*SMALL, *seeds(3), "--run-id", "grows")
    second = deployed.wait("grows")
    assert statuses(second) == {"completed": 3}
    assert outcomes(first).items() <= outcomes(second).items()
    assert was_run_once(deployed.archive("grows"), 3)


# --------------------------------------------------------------------------- clients that come to an end


def test_a_client_killed_half_way_is_resumed_and_every_task_runs_once(deployed: Cloud) -> None:
    run_id, before = "killed", len(deployed.calls())
    hold_spawns(deployed, spared=4)
    with deployed.start("run_benchmark.py", "--modal", *SMALL, *seeds(8), "--run-id", run_id) as client:
        until(lambda: len(deployed.calls()) == before + 4)
        client.send_signal(signal.SIGKILL)
    deployed.plane.faults([])
    deployed.submit("--resume-run-id", run_id)
    overview = deployed.wait(run_id)
    if overview["status"] != "completed":  # calls that the first resume left to their own have been overtaken
        deployed.submit("--resume-run-id", run_id)
        overview = deployed.wait(run_id)
    assert statuses(overview) == {"completed": 8}
    assert was_run_once(deployed.archive(run_id), 8)


def test_a_call_that_no_client_wrote_down_is_left_alone_while_it_runs(deployed: Cloud, server: OpenAIServer) -> None:
    server.gate.hold()
    deployed.submit(*GRID, REAL, *seeds(1), "--max-in-flight", "1", "--run-id", "unknown")
    until(lambda: server.gate.held)
    cancel(deployed, server, "unknown")
    archive = deployed.archive("unknown")
    begun = len(archive.blobs.list("started"))
    deployed.plane.faults([{"rpc": "VolumePutFiles2", "skip": 2, "gathers": sys.maxsize}])
    with deployed.start("run_benchmark.py", "--modal", "--resume-run-id", "unknown") as client:
        until(lambda: len(archive.blobs.list("started")) > begun and server.gate.held)
        client.send_signal(signal.SIGKILL)
    deployed.plane.faults([])
    assert "what is left of it, 1 task, is queued or running" in deployed.submit("--resume-run-id", "unknown")
    server.gate.open()
    assert deployed.wait("unknown")["status"] == "completed"
    assert was_run_once(archive, 1)


def test_ctrl_c_while_submitting_leaves_a_run_that_can_be_resumed_or_cancelled(deployed: Cloud) -> None:
    before = len(deployed.calls())
    hold_spawns(deployed, spared=3)
    client = deployed.start("run_benchmark.py", "--modal", *SMALL, *seeds(6), "--run-id", "stopped")
    until(lambda: len(deployed.calls()) == before + 3)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 130, out + err
    assert err.strip() == "interrupted"
    assert re.search(r"stopped after [0-3] of 6 calls; they go on\.", out)  # an id may be on its way
    for verb in ("resume", "cancel"):
        assert f"python run_benchmark.py --modal --{verb}-run-id stopped" in out
    deployed.plane.faults([])
    deployed.submit("--resume-run-id", "stopped")
    assert statuses(deployed.wait("stopped")) == {"completed": 6}
    assert was_run_once(deployed.archive("stopped"), 6)


def test_a_cancelled_run_gives_its_containers_back_and_is_resumed_where_it_was(
    deployed: Cloud, server: OpenAIServer
) -> None:
    server.gate.hold()
    words = [*GRID, REAL, *seeds(3), "--max-in-flight", "1", "--max-concurrent", "1"]
    deployed.submit(*words, "--run-id", "taken-back")
    archive = deployed.archive("taken-back")
    answered = server.answered
    server.gate.let(3)
    until(lambda: server.answered == answered + 3 and server.gate.held)
    said = cancel(deployed, server, "taken-back")
    assert "run taken-back: 3 tasks cancelled, 3 of their calls were still alive" in said
    assert "python run_benchmark.py --modal --resume-run-id taken-back" in said
    overview = deployed.look("taken-back")
    assert (overview["status"], statuses(overview)) == ("interrupted", {"pending": 3})
    assert lines(archive).total() == server.answered - answered == 4
    server.gate.open()
    deployed.submit("--resume-run-id", "taken-back")
    assert statuses(deployed.wait("taken-back")) == {"completed": 3}
    assert was_run_once(archive, 3)
    assert lines(archive).total() == server.answered - answered
    said = deployed.run("run_benchmark.py", "--modal", "--cancel-run-id", "taken-back")
    assert "nothing to cancel, every task is final" in said


def test_a_queue_that_is_full_for_a_while_is_waited_out(deployed: Cloud) -> None:
    deployed.plane.faults([{"rpc": "FunctionMap", "status": "RESOURCE_EXHAUSTED", "skip": 1, "times": 3}])
    deployed.submit(*SMALL, *seeds(3), "--run-id", "waited")
    assert statuses(deployed.wait("waited")) == {"completed": 3}


def test_a_queue_that_stays_full_is_one_line_and_the_run_can_be_resumed(
    deployed: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import run_benchmark

    monkeypatch.setattr(coordinator, "FULL_S", 0.0)
    deployed.plane.faults([{"rpc": "FunctionMap", "status": "RESOURCE_EXHAUSTED", "skip": 3, "times": 1000}])
    with client_of(deployed.plane):
        assert run_benchmark.cli(["--modal", *SMALL, *seeds(4), "--run-id", "full"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Modal takes no more calls")
    assert line.endswith(
        "`python run_benchmark.py --modal --resume-run-id full` goes on, and no task is submitted twice"
    )
    deployed.plane.faults([])
    deployed.submit("--resume-run-id", "full")
    assert statuses(deployed.wait("full")) == {"completed": 4}
    assert was_run_once(deployed.archive("full"), 4)


@pytest.mark.parametrize("rpc", ["VolumePutFiles2", "FunctionMap"])
def test_a_submission_that_is_cut_names_its_run_and_the_command_that_goes_on(deployed: Cloud, rpc: str) -> None:
    """Cut when the plan is written, or when the first task is submitted; nobody has named the run."""
    deployed.plane.faults(
        [{"rpc": rpc, "status": "INTERNAL", "skip": 0 if rpc.startswith("Volume") else 1, "times": 1000}]
    )
    before = len(deployed.calls())
    said = deployed.submit(*SMALL, *seeds(3), code=2)
    (run_id,) = set(re.findall(r"run_\d+_\d+_\w+", said))
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    deployed.plane.faults([])
    assert len(deployed.calls()) == before
    if rpc == "VolumePutFiles2":
        assert line.endswith(f"; --run-id {run_id} with the same options goes on")
        deployed.submit(*SMALL, *seeds(3), "--run-id", run_id)
    else:
        assert line.endswith(
            f"; `python run_benchmark.py --modal --resume-run-id {run_id}` goes on, and no task is submitted twice"
        )
        deployed.submit("--resume-run-id", run_id)
    assert statuses(deployed.wait(run_id)) == {"completed": 3}
    assert was_run_once(deployed.archive(run_id), 3)


# --------------------------------------------------------------------------- two clients at once


def test_two_dispatches_at_once_get_two_numbers_and_every_task_runs_once(deployed: Cloud) -> None:
    """Both have counted the submissions before either writes its own."""
    deployed.plane.faults([{"rpc": "FunctionMap", "status": "INTERNAL", "skip": 1, "times": 100}])
    deployed.submit(*SMALL, *seeds(4), "--run-id", "twice", code=2)
    deployed.plane.faults([{"rpc": "VolumePutFiles2", "gathers": 2, "times": 2}])
    before = len(deployed.calls())
    resume = ("run_benchmark.py", "--modal", "--resume-run-id", "twice")
    clients = [deployed.start(*resume) for _ in range(2)]
    said = [client.communicate(timeout=PATIENCE_S) for client in clients]
    assert [client.returncode for client in clients] == [0, 0], said
    archive = deployed.archive("twice")
    assert [submission.kind for submission in archive.submissions()] == ["new", "resume", "resume"]
    assert statuses(deployed.wait("twice")) == {"completed": 4}
    assert was_run_once(archive, 4)
    made = {call["call"] for call in deployed.calls()[before:]}
    recorded = {call for part in load_calls(archive) for call in part.ids.values()}
    assert recorded == made, "a cancellation would find every call"


def test_of_two_new_runs_of_one_name_one_is_planned_and_the_other_told_to_come_again(deployed: Cloud) -> None:
    deployed.plane.faults([{"rpc": "VolumePutFiles2", "gathers": 2, "times": 2}])
    clients = [
        deployed.start("run_benchmark.py", "--modal", *SMALL, *seeds(count), "--run-id", "namesakes")
        for count in (1, 2)
    ]
    said = [client.communicate(timeout=PATIENCE_S) for client in clients]
    assert sorted(client.returncode for client in clients) == [0, 2], said
    (refused,) = (err for client, (_, err) in zip(clients, said, strict=True) if client.returncode == 2)
    assert "was planned by another command in this moment; give yours again" in refused
    assert "run namesakes" in deployed.submit(*SMALL, *seeds(2), "--run-id", "namesakes")
    assert statuses(deployed.wait("namesakes")) == {"completed": 2}
    assert was_run_once(deployed.archive("namesakes"), 2)


def test_a_run_whose_calls_are_alive_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [TaskSpec("toy", "no_op", "sim/standard", seed) for seed in (1, 2)]
    archive = RunArchive(Folder(tmp_path), "r")
    archive.save_plan(RunPlan("r", "now", tuple(tasks)))
    archive.submit(Kind.NEW, tasks, "now")
    save_calls(archive, Calls(1, "fu-1", {task.task_id: f"fc-{task.seed}" for task in tasks}), 1)

    async def first_is_alive(calls: Sequence[str]) -> set[str]:
        return {"fc-1"} & set(calls)

    monkeypatch.setattr(coordinator, "find_alive", first_is_alive)
    venue = coordinator.ModalVenue()
    assert venue.at_work(archive) == {tasks[0].task_id}
    with pytest.raises(UsageError, match=r"run 'r' is at work on 1 of its tasks; .*--cancel-run-id r"):
        venue.delete(archive, lambda where: pytest.fail("asked"))


def test_a_task_that_ends_while_its_call_is_asked_for_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [TaskSpec("toy", "no_op", "sim/standard", seed) for seed in (1, 2)]
    archive = RunArchive(Folder(tmp_path), "r")
    archive.submit(Kind.NEW, tasks, "now")
    save_calls(archive, Calls(1, "fu-1", {task.task_id: f"fc-{task.seed}" for task in tasks}), 1)
    states = archive.states(tasks)

    async def all_are_gone(calls: object) -> set[str]:
        ended = TaskResult(tasks[0].task_id, Status.COMPLETED, StopReason.EXHAUSTED, 1.0, True)
        archive.save_result(Attempt(tasks[0].task_id, 1, "001"), ended)
        return set()

    monkeypatch.setattr(coordinator, "find_alive", all_are_gone)
    assert coordinator.ModalVenue().unfinished(archive, tasks, states) == (tasks[1],)


# --------------------------------------------------------------------------- money of a run


@pytest.mark.trial
def test_the_limit_of_a_run_holds_over_its_containers_and_more_money_ends_it(
    deployed: Cloud, server: OpenAIServer
) -> None:
    """By the provider's own count; one container is lost with what it held."""

    def paid_usd() -> float:
        stats = server.stats()
        prices = litellm_engine.price(REAL)
        assert prices
        return stats["tokens_in"] * prices[0] + stats["tokens_out"] * prices[1]

    words = [*GRID, REAL, "--model-params", "max_tokens=30", "--max-concurrent", "3"]
    before = paid_usd()
    deployed.submit(*words, "--seeds", "7", "--run-id", "measured")
    deployed.wait("measured")
    limit = 3 * (paid_usd() - before)
    deployed.plane.faults([{"at": "input", "action": "crash", "function": "run_task", "after": 0.05}])
    before = paid_usd()
    deployed.submit(*words, *seeds(6), "--run-id", "dear", "--run-max-cost", f"{limit:.8f}")
    overview = deployed.wait("dear")
    deployed.plane.faults([])
    assert 0 < paid_usd() - before <= limit
    waiting = overview["stopped_by_run_max_cost"]
    assert waiting == statuses(overview)["pending"] > 0
    said = deployed.run("check_results.py", "--modal", "--run-id", "dear", "--watch", code=3)
    assert f"the run's limit of money is reached, {waiting} of its tasks wait for more" in said
    refused = deployed.refuse(
        "run_benchmark.py", "--modal", "--resume-run-id", "dear", "--run-max-cost", f"{limit / 1000:.8f}"
    )
    assert "is reached" in refused
    assert "give a higher --run-max-cost" in refused
    deployed.submit("--resume-run-id", "dear", "--run-max-cost", f"{100 * limit:.8f}")
    assert statuses(deployed.wait("dear")) == {"completed": 6}


# --------------------------------------------------------------------------- failed tasks


@pytest.mark.trial
def test_failed_tasks_are_retried_and_by_their_class_if_one_says_so(deployed: Cloud, server: OpenAIServer) -> None:
    server.settings.faults = {"content_policy": 1.0}
    deployed.submit(*GRID, REAL, *seeds(2), "--run-id", "fails")
    overview = deployed.wait("fails")
    assert {task["error"]["class"] for task in overview["tasks"]} == {"content_filter"}
    assert overview["status"] == "failed"
    server.settings.faults = {}
    retry = ("run_benchmark.py", "--modal", "--retry-failed-run-id", "fails", "--error-class")
    assert "has no failed task of class timeout" in deployed.refuse(*retry, "timeout")
    assert "unknown error class 'timeot'" in deployed.refuse(*retry, "timeot")
    assert "retry, 2 tasks to do" in deployed.run(*retry, "content_filter")
    overview = deployed.wait("fails")
    assert statuses(overview) == {"completed": 2}
    assert {task["attempts"] for task in overview["tasks"]} == {2}
    assert KEY not in deployed.plane.logs()
    assert "no failed task" in deployed.refuse(*retry[:4])
    answered = lines(deployed.archive("fails"))
    assert answered.total() == len(answered) == server.stats()["answered"] > 0


# --------------------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A workspace with nothing in it."""
    with running(tmp_path_factory.mktemp("bare"), hide=HIDDEN) as plane:
        yield Cloud(plane)


def test_an_app_that_is_not_deployed_is_named_with_the_command_that_deploys_it(bare: Cloud) -> None:
    for models in ("sim/standard", REAL):
        assert f"is not deployed; run `{DEPLOY}`" in bare.refuse("run_benchmark.py", "--modal", *GRID, models)


@pytest.mark.parametrize(
    "words",
    [("run_benchmark.py", "--modal", *SMALL), ("check_results.py", "--modal", "--list-runs")],
    ids=["run", "check"],
)
def test_without_a_token_the_command_that_gets_one_is_named(deployed: Cloud, words: tuple[str, ...]) -> None:
    env = {k: v for k, v in deployed.env.items() if k not in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")}
    assert "run `modal token new`" in deployed.refuse(*words, env=env)


@pytest.mark.trial  # the client itself tries for a minute
def test_a_control_plane_that_is_away_is_one_line(deployed: Cloud) -> None:
    env = {**deployed.env, "MODAL_SERVER_URL": "http://127.0.0.1:9"}
    assert "Modal cannot be reached" in deployed.refuse("check_results.py", "--modal", "--list-runs", env=env)


@pytest.mark.parametrize("status", ["INTERNAL", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"])
def test_what_modal_refuses_is_one_line(deployed: Cloud, status: str) -> None:
    deployed.plane.faults([{"rpc": "FunctionMap", "status": status, "message": "out of luck", "times": 100}])
    assert "out of luck" in deployed.refuse("run_benchmark.py", "--modal", *SMALL)


def test_a_key_that_no_secret_has_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    words = ("run_benchmark.py", "--modal", *GRID, REAL)
    command = "`modal secret create llm-api-keys OPENAI_API_KEY=...`"
    with cloud(tmp_path / "plane") as deployed:
        env = {**deployed.env, "OPENAI_API_KEY": KEY}  # a key of this machine is of no use there
        without = deployed.refuse(*words, env=env)
        deployed.run("-m", "modal", "secret", "create", "llm-api-keys", f"MISTRAL_API_KEY={KEY}")
        lacking = deployed.refuse(*words, env=env)
        for line in (without, lacking):
            assert f"model {REAL!r} needs OPENAI_API_KEY" in line
            assert command in line
            assert KEY not in line
        assert "--models" not in deployed.submit(*SMALL, "--dry-run"), "a simulated model needs no key"
        assert KEY not in deployed.plane.logs()


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


BREAKS: Mapping[str, Callable[[Path], object]] = {
    "journal": lambda copy: (copy / "utils" / "journal.py").unlink(),
    "syntax": lambda copy: (copy / "utils" / "ledger.py").write_text("def"),
    "import": lambda copy: append(
        copy / "modal_utils" / "deployment.py",
        "\nif not modal.is_local():\n    raise RuntimeError('deployment cannot be imported')\n",
    ),
}


@pytest.mark.parametrize(
    "how", ["journal", *(pytest.param(how, marks=pytest.mark.trial) for how in ("syntax", "import"))]
)
def test_a_worker_that_cannot_import_its_code_is_found_before_anything_is_submitted(how: str, tmp_path: Path) -> None:
    broken = checkout(tmp_path / "checkout")
    BREAKS[how](broken)
    with running(tmp_path / "plane", hide=HIDDEN) as plane:
        deployed = Cloud(plane)
        deployed.deploy(cwd=broken)
        line = deployed.refuse("run_benchmark.py", "--modal", *SMALL)
    assert "the deployed worker does not start: " in line
    assert {"journal": "utils.journal", "syntax": "SyntaxError", "import": "cannot be imported"}[how] in line
    assert f"`{DEPLOY}`; its log: https://modal.com/id/fc-" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume-run-id", "extant-ru"], "unknown run 'extant-ru'; did you mean 'extant-run'?"),
        (["--retry-failed-run-id", "extant-ru"], "unknown run 'extant-ru'; did you mean 'extant-run'?"),
        (["--cancel-run-id", "extant-ru"], "unknown run 'extant-ru'; did you mean 'extant-run'?"),
        ([*GRID, "sim/standart"], "did you mean 'sim/standard'?"),
        ([*SMALL, "--error-class", "timeout"], "give it with --retry-failed-run-id"),
        ([*SMALL, "--run-id", "../up"], "--run-id '../up' cannot name a folder"),
        ([*SMALL, "--metric", "exact_macth"], "'exact_macth'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(deployed: Cloud, words: list[str], said: str) -> None:
    if "extant-ru" in words and not deployed.archive("extant-run").exists():
        deployed.submit(*SMALL, "--run-id", "extant-run")
        deployed.wait("extant-run")
    assert said in deployed.refuse("run_benchmark.py", "--modal", *words)


def test_a_run_here_is_not_cancelled_from_there(tmp_path: Path, deployed: Cloud) -> None:
    folder = ("--checkpoint-dir", str(tmp_path))
    deployed.run("run_benchmark.py", *SMALL, "--run-id", "here", *folder)
    line = deployed.refuse("run_benchmark.py", "--cancel-run-id", "here", *folder)
    assert "--cancel-run-id is for runs on Modal" in line


def test_code_that_is_not_what_is_deployed_is_said(deployed: Cloud, tmp_path: Path) -> None:
    changed = checkout(tmp_path / "checkout")
    append(changed / "utils" / "ledger.py", "# changed\n")
    words = ("run_benchmark.py", "--modal", *SMALL, "--run-id")
    note = f"note: what is deployed is not what is checked out here; `{DEPLOY}` brings it up to date"
    assert note in deployed.run(*words, "changed", cwd=changed)
    assert note not in deployed.run(*words, "unchanged")
    deployed.wait("changed")
