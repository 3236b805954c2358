"""Traces of runs on Modal: sent by the containers, none twice, and the rest from here once a run was pulled."""

from __future__ import annotations

import io
import json
import math
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark_config import Settings
from modal_utils import coordinator
from modal_utils.coordinator import ModalVenue
from tests.modal_utils.command import NOWHERE, Cloud, cloud, statuses
from tests.servers.opik_server import OpikServer
from tests.utils.tracing.runs import RUN, Run, assert_whole, billed_in, held
from tests.waiting import PATIENCE_S, until
from utils.archive import local_archive
from utils.errors import UsageError
from utils.tracing.target import decide

GRID = (
    "--data sample --test-mode --yes --models sim/standard --demo-datasets gsm8k ai2_arc --optimizers no_op hill_climb"
)
SLOW = "--model-params realtime=true latency=0.2"


@pytest.fixture(scope="module")
def opik() -> Iterator[OpikServer]:
    with OpikServer(strict=True) as server:
        yield server


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, opik: OpikServer) -> Iterator[Cloud]:
    """A control plane whose containers know of Opik; what is published, our worker publishes."""
    patient = {"OPIK_DEFAULT_FLUSH_TIMEOUT": f"{PATIENCE_S:g}"}
    secrets = {"opik-credentials": {"OPIK_URL_OVERRIDE": opik.url, "OPIK_CONFIG_PATH": "/dev/null", **patient}}
    with cloud(tmp_path_factory.mktemp("plane"), secrets=secrets, background_commit_s=0.0) as deployed:
        yield deployed


@pytest.fixture
def deployed(plane: Cloud, opik: OpikServer) -> Iterator[Cloud]:
    """The same, with a user who knows of Opik as well; faults and traces of one test do not reach the next."""
    before = plane.env
    plane.env = {**before, "OPIK_URL_OVERRIDE": opik.url}
    opik.reset()
    yield plane
    plane.env = before
    plane.plane.faults([])
    opik.faults([])


def in_folder(folder: Path, run_id: str) -> Run:
    """A run there; its tasks have all begun."""
    (folder / RUN).symlink_to(folder / run_id)
    archive = local_archive(folder, run_id)
    return Run(folder, archive.load_plan(), archive)


def pull(deployed: Cloud, run_id: str, folder: Path) -> Run:
    deployed.run("check_results.py", "--modal", "--run-id", run_id, "--pull", str(folder))
    return in_folder(folder, run_id)


def push(deployed: Cloud, run_id: str, folder: Path) -> str:
    return deployed.run("check_results.py", "--run-id", run_id, "--push-traces", "--checkpoint-dir", str(folder))


def billed(overview: dict[str, Any]) -> dict[str, float]:
    """Tokens and money by the ledgers of a run's tasks, final scoring included."""
    ledgers = [task[name]["billed"] for task in overview["tasks"] for name in ("spent", "scoring")]
    names = {"prompt_tokens": "tokens_in", "completion_tokens": "tokens_out", "usd": "usd"}
    return {name: math.fsum(ledger[its] for ledger in ledgers) for name, its in names.items()}


def assert_complete(run: Run, overview: dict[str, Any], opik: OpikServer) -> None:
    assert held(opik) == run.counts()
    assert_whole(opik)
    assert billed_in(opik) == pytest.approx(billed(overview), abs=1e-9)
    assert {row["status"] for row in opik.rows("optimizations")} == {"completed"}


def test_containers_send_what_the_run_s_own_files_tell_and_a_push_of_a_pulled_run_nothing_more(
    deployed: Cloud, opik: OpikServer, tmp_path: Path
) -> None:
    said = deployed.submit(*GRID.split(), "--run-id", "grid", "--tracing")
    assert f"tracing: on, to {opik.url} workspace default" in said
    assert "Traceback" not in said
    overview = deployed.wait("grid")
    assert statuses(overview) == {"completed": 4}
    run = pull(deployed, "grid", tmp_path)
    assert_complete(run, overview, opik)
    assert opik.summary()["repeated"] == {}
    assert opik.summary()["answers"]["PUT v1/private/datasets/items 204"] == 2, "made once, before the containers"
    rows = {row["id"]: row for row in opik.rows("optimizations")}
    for task in overview["tasks"]:
        with urllib.request.urlopen(task["links"]["traces"]) as page:
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).query)
        assert rows[asked["optimization_id"][0]]["metadata"]["task_id"] == task["task_id"]
    before = len(opik.rows("requests"))
    assert "not whole" not in push(deployed, "grid", tmp_path)
    assert {row["path"] for row in opik.rows("requests")[before:]} <= {"is-alive/ping", "v1/private/auth"}
    look = deployed.run("check_results.py", "--run-id", "grid", "--json", "--checkpoint-dir", str(tmp_path))
    pulled = {task["task_id"]: task["links"]["traces"] for task in json.loads(look)["tasks"]}
    assert pulled == {task["task_id"]: task["links"]["traces"] for task in overview["tasks"]}


HERE = {"OPIK_URL_OVERRIDE": "http://here/api/"}
THERE = {"is_traced": True, "tracing": "tracing: on, to there"}
NOT_THERE = {"is_traced": False, "tracing": "tracing: off (not configured)"}


@pytest.mark.parametrize(
    ("wanted", "environ", "answer", "is_traced", "has_target", "said"),
    [
        (None, {}, THERE, True, False, "on, to there, by the secret 'opik-credentials' (no links here"),
        (True, {}, THERE, True, False, "on, to there, by the secret 'opik-credentials' (no links here"),
        (None, HERE, THERE, True, True, "tracing: on, to http://here/api/"),
        (False, HERE, THERE, False, False, "tracing: off (--no-tracing)"),
        (False, {}, THERE, False, False, "tracing: off (--no-tracing)"),
        (None, HERE, NOT_THERE, False, False, "tracing: off (not configured), on Modal"),
        (None, {}, NOT_THERE, False, False, "tracing: off (not configured)"),
    ],
)
def test_the_secret_alone_is_enough_for_traces(
    wanted: bool | None,
    environ: dict[str, str],
    answer: dict[str, Any],
    is_traced: bool,
    has_target: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coordinator, "decide", lambda wanted, _: decide(wanted, {**NOWHERE, **environ}, lambda _: ""))
    out = io.StringIO()
    console = Console(file=out, width=300)
    found = ModalVenue()._traces(Settings(tracing=wanted), answer, console)
    assert (found[0], found[1] is not None) == (is_traced, has_target)
    assert said in out.getvalue()


def test_traces_that_are_demanded_and_cannot_be_had_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "decide", lambda wanted, _: decide(wanted, NOWHERE))
    with pytest.raises(UsageError, match=r"--tracing cannot be kept: .*modal secret create opik-credentials"):
        ModalVenue()._traces(Settings(tracing=True), NOT_THERE, Console(file=io.StringIO()))


def test_a_run_on_modal_is_pushed_from_where_it_is_and_can_be_deleted(
    deployed: Cloud, opik: OpikServer, tmp_path: Path
) -> None:
    words = GRID.replace("gsm8k ai2_arc", "gsm8k").replace("no_op hill_climb", "no_op").split()
    deployed.submit(*words, "--run-id", "untraced", "--no-tracing")
    overview = deployed.wait("untraced")
    run = pull(deployed, "untraced", tmp_path)
    push_there = ("check_results.py", "--modal", "--run-id", "untraced", "--push-traces")
    assert f"{run.counts()['traces']} traces sent" in deployed.run(*push_there)
    assert_complete(run, overview, opik)
    assert "nothing is missing" in deployed.run(*push_there)
    volume = deployed.plane.volume("optimizer-benchmarks") / "runs"
    others = sorted(path for path in volume.rglob("*") if "untraced" not in path.parts)
    assert "give --yes" in deployed.refuse("run_benchmark.py", "--modal", "--delete-run-id", "untraced")
    assert "run untraced: deleted" in deployed.submit("--delete-run-id", "untraced", "--yes")
    assert sorted(volume.rglob("*")) == others
    assert "unknown run 'untraced'" in deployed.refuse("run_benchmark.py", "--modal", "--delete-run-id", "untraced")


def test_a_container_that_could_not_send_is_made_good_by_a_push(
    deployed: Cloud, opik: OpikServer, tmp_path: Path
) -> None:
    opik.faults([{"path": "spans/batch", "status": 403}])  # which is not tried again
    deployed.submit(*GRID.split(), "--run-id", "unsent", "--tracing")
    overview = deployed.wait("unsent")
    assert statuses(overview) == {"completed": 4}
    opik.faults([])
    run = pull(deployed, "unsent", tmp_path)
    assert f"{run.counts()['traces']} traces sent" in push(deployed, "unsent", tmp_path)
    assert_complete(run, overview, opik)


@pytest.mark.trial
def test_a_killed_container_s_run_is_pushed_to_completion(deployed: Cloud, opik: OpikServer, tmp_path: Path) -> None:
    words = GRID.replace("gsm8k ai2_arc", "gsm8k").replace("no_op hill_climb", "hill_climb")
    deployed.plane.faults([{"at": "input", "function": "run_task", "times": 1, "action": "crash", "after": 4.0}])
    deployed.submit(*words.split(), *SLOW.split(), "--run-id", "killed", "--tracing")
    until(lambda: any(dead["why"] == "fault crash" for dead in deployed.plane.state(full=True)["dead"]))
    overview = deployed.wait("killed")
    assert statuses(overview) == {"completed": 1}
    run = pull(deployed, "killed", tmp_path)
    assert "not whole" not in push(deployed, "killed", tmp_path)
    assert_whole(opik)
    assert {row["status"] for row in opik.rows("optimizations")} == {"completed"}
    assert_complete(run, overview, opik)
