"""A run on Modal as others see it: watched to its end, listed, told where its logs are, copied, and read sparingly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.inspection import watch_run
from local.launch import open_run
from modal_utils import display
from modal_utils.coordinator import ModalVenue
from modal_utils.display import ModalLook, ModalRuns
from tests.local.command import MODEL, entries, environment
from tests.modal_utils.command import ROOT, Cloud, client_of, cloud, outcomes, statuses
from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S, until
from utils.archive import local_archive

GRID = ["--data", "sample", "--test-mode", "--demo-datasets", "gsm8k", "--optimizers", "no_op", "--yes", "--models"]
SEEDS = ["--seeds", "1", "2", "3", "4"]
CALLS = 10  # of a task
Shown = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer="counter") as server:
        yield server


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, server: OpenAIServer) -> Iterator[Cloud]:
    """A control plane with two runs: one that was finished, and one whose calls were lost."""
    keys = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": server.url}
    with cloud(tmp_path_factory.mktemp("plane"), secrets={"llm-api-keys": keys}) as deployed:
        deployed.submit(*GRID, "sim/standard", *SEEDS, "--run-id", "done")
        deployed.wait("done")
        server.gate.hold()
        server.gate.let(CALLS)
        deployed.submit(*GRID, MODEL, *SEEDS, "--run-id", "lost", "--max-concurrent", "1", "--max-in-flight", "1")
        for _ in range(3):
            lose(deployed, server)
        server.gate.open()
        yield deployed


def lose(deployed: Cloud, server: OpenAIServer) -> None:
    """The call that is at work, with an answer held, is cancelled by somebody else."""
    import modal

    def at_work() -> list[str]:
        return [each["call"] for each in deployed.calls() if each["state"] == "running"]

    until(lambda: server.gate.held)
    (lost,), before = at_work(), deployed.interrupted
    with client_of(deployed.plane):
        modal.FunctionCall.from_id(lost).cancel()
    until(lambda: deployed.interrupted > before)
    server.gate.let(1)  # what is in flight is answered
    until(lambda: lost not in at_work())


@pytest.fixture
def look(deployed: Cloud) -> Iterator[ModalLook]:
    with client_of(deployed.plane):
        yield looks().open("done")


def looks() -> ModalRuns:
    venue = ModalVenue()
    return ModalRuns(venue, lambda run_id: open_run(venue, run_id, "--run-id"))


def check(deployed: Cloud, *words: str, code: int = 0) -> str:
    return deployed.run("check_results.py", "--modal", *words, code=code)


# --------------------------------------------------------------------------- what is shown


def test_a_watch_ends_when_every_task_is_final(deployed: Cloud, server: OpenAIServer, capsys: Shown) -> None:
    looked: list[float] = []

    def sleep(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 1:
            until(lambda: server.gate.held)
        elif len(looked) == 2:  # it was seen at work
            server.gate.open()
            until(lambda: not deployed.open_inputs)

    server.gate.hold()
    deployed.submit(*GRID, MODEL, *SEEDS, "--run-id", "watched", "--max-concurrent", "2")
    with client_of(deployed.plane):
        assert watch_run(looks().open("watched"), detailed=False, as_json=False, sleep=sleep) == 0
    out, err = capsys.readouterr()
    shown = re.findall(r"run watched: (\w+), (\d) of 4", out)
    assert shown[-1] == ("completed", "4")
    assert shown[0][0] == "running"
    assert all(status == "running" for status, _ in shown[:-1])
    assert re.search(r"\d containers, \d tasks running, \d waiting: https://modal\.com/id/fu-", out)
    assert err == ""


def test_a_watch_of_a_run_whose_calls_are_lost_ends_and_says_so(deployed: Cloud) -> None:
    said = check(deployed, "--run-id", "lost", "--watch", code=1)
    found = statuses(deployed.look("lost"))
    assert set(found) == {"completed", "pending"}
    assert said.count(f"run lost: interrupted, {found['completed']} of 4 tasks completed") == 1
    unfinished = [task["paid"] for task in deployed.look("lost")["tasks"] if task["status"] == "pending"]
    assert sum(paid["task_calls"] for paid in unfinished) > 0, "what was paid for tasks that were lost"


def test_runs_are_listed_without_a_look_at_their_results(deployed: Cloud) -> None:
    before = deployed.volume["reads"]
    listed = {row["run_id"]: row for row in json.loads(check(deployed, "--list-runs", "--json"))}
    assert (listed["done"]["status"], listed["done"]["tasks"]) == ("completed", 4)
    assert (listed["lost"]["status"], listed["lost"]["tasks"]) == ("interrupted", 4)
    reads = deployed.volume["reads"] - before
    assert reads <= 8 * len(listed), "a plan, its submissions, its calls"


def test_every_task_has_a_link_to_its_log(deployed: Cloud) -> None:
    overview = deployed.look("done")
    links = [task["links"]["log"] for task in overview["tasks"]]
    assert len(set(links)) == 4
    assert all(re.fullmatch(r"https://modal\.com/id/fc-\w+", link) for link in links)
    said = check(deployed, "--run-id", "done", "--detailed")
    assert [link for link in links if re.search(rf"^  log +{link}$", said, re.MULTILINE)] == links


@pytest.mark.parametrize("words", [("--list-runs",), ("--run-id", "done"), ("--run-id", "lost", "--detailed")])
def test_modals_own_command_shows_the_same(deployed: Cloud, words: tuple[str, ...]) -> None:
    ours = deployed.start("check_results.py", "--modal", *words)
    theirs = deployed.start("-m", "modal", "run", "check_results.py", *words)
    (out, err), (modal_out, modal_err) = ours.communicate(timeout=PATIENCE_S), theirs.communicate(timeout=PATIENCE_S)
    assert (err, ours.returncode) == ("", theirs.returncode)
    assert "Traceback" not in modal_err
    assert out.strip() in modal_out


def test_an_unknown_run_is_refused_with_the_nearest(deployed: Cloud) -> None:
    for more in ((), ("--pull", "somewhere")):
        assert "unknown run 'doen'" in deployed.refuse("check_results.py", "--modal", "--run-id", "doen", *more)
    assert not (ROOT / "somewhere").exists()


# --------------------------------------------------------------------------- how much is read


def test_a_second_look_reads_no_result_again(deployed: Cloud, look: ModalLook) -> None:
    overview, is_stopped = look.render()
    assert is_stopped
    assert statuses(overview) == {"completed": 4}
    first = deployed.volume["reads"]
    again, _ = look.render()
    assert again == overview
    second = deployed.volume["reads"]
    assert second - first <= 2, "submissions and calls"
    look.render()
    assert deployed.volume["reads"] - second == second - first


def test_many_results_are_read_by_a_container_and_come_in_one_file(
    deployed: Cloud, look: ModalLook, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = look.render()
    names = len(deployed.archive("done").blobs.list("summaries"))
    monkeypatch.setattr(display, "MANY", 3)
    collected = len(deployed.calls("collect"))
    overview, _ = looks().open("done").render()
    assert overview == expected
    assert len(deployed.calls("collect")) == collected + 1
    assert len(deployed.archive("done").blobs.list("summaries")) == names + 1
    before = deployed.volume["reads"]
    assert looks().open("done").render()[0] == expected
    assert deployed.volume["reads"] - before <= 6, "the summary, and no result"
    assert len(deployed.calls("collect")) == collected + 1


def test_many_results_are_read_from_here_where_no_container_could(
    deployed: Cloud, look: ModalLook, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = look.render()
    monkeypatch.setattr(display, "MANY", 3)
    monkeypatch.setattr(display, "COLLECT", "not-deployed")
    monkeypatch.setattr(display, "load_summary", lambda archive: {})
    assert looks().open("done").render()[0] == expected


# --------------------------------------------------------------------------- a copy


def here(*words: str, folder: Path, server: OpenAIServer | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words, "--checkpoint-dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment(server), capture_output=True, text=True)


def shown(folder: Path, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(here("check_results.py", "--run-id", run_id, "--json", folder=folder).stdout)
    return found


def test_a_copy_of_a_finished_run_reads_like_any_other_and_is_copied_once(deployed: Cloud, tmp_path: Path) -> None:
    volume = deployed.plane.volume("optimizer-benchmarks") / "runs" / "done"
    (volume / "results" / ".half.123").write_bytes(b"a write that a lost container did not end")
    said = check(deployed, "--run-id", "done", "--pull", str(tmp_path))
    files = {path.relative_to(volume): path for path in volume.rglob("*") if path.is_file() and path.name[0] != "."}
    copied = {path.relative_to(tmp_path / "done"): path for path in (tmp_path / "done").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in copied.items()} == {
        name: path.read_bytes() for name, path in files.items()
    }
    assert f"run done: {len(files)} of {len(files)} files copied to {tmp_path / 'done'}" in said
    assert f"next: python check_results.py --run-id done --checkpoint-dir {tmp_path}" in said
    reads = deployed.volume["reads"]
    assert f"run done: 0 of {len(files)} files copied" in check(deployed, "--run-id", "done", "--pull", str(tmp_path))
    assert deployed.volume["reads"] == reads
    there = deployed.look("done")
    assert outcomes(shown(tmp_path, "done")) == outcomes(there)
    resumed = here("run_benchmark.py", "--resume-run-id", "done", folder=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "nothing to do, every task is final" in resumed.stdout


def paid(folder: Path, run_id: str) -> int:
    """The answers that the run's journals have."""
    return sum(1 for entry in entries(local_archive(folder, run_id)) if entry.billed.calls)


def test_a_copy_of_an_unfinished_run_is_finished_here_and_no_answer_is_asked_for_again(
    deployed: Cloud, server: OpenAIServer, tmp_path: Path
) -> None:
    until(lambda: not server.app.ledger.in_flight)
    answered = server.stats()["answered"]
    check(deployed, "--run-id", "lost", "--pull", str(tmp_path))
    before = shown(tmp_path, "lost")
    assert (before["status"], statuses(before)) == ("interrupted", statuses(deployed.look("lost")))
    resumed = here("run_benchmark.py", "--resume-run-id", "lost", "--no-probe", folder=tmp_path, server=server)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    after = shown(tmp_path, "lost")
    assert statuses(after) == {"completed": 4}
    finished = {task["task_id"] for task in before["tasks"] if task["status"] == "completed"}
    assert {name: row for name, row in outcomes(after).items() if name in finished} == {
        name: row for name, row in outcomes(before).items() if name in finished
    }
    assert server.stats()["answered"] > answered
    more = server.stats()["answered"] - answered
    assert paid(tmp_path, "lost") == CALLS + 3 + more, "every answer is in one journal, whoever asked"
