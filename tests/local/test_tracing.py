"""Tracing as a user meets it: the real commands, a strict double of Opik, and the run's own files to count by."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.local.command import MODEL, ROOT
from tests.local.test_kill import answering
from tests.servers.openai_server import OpenAIServer
from tests.servers.opik_server import OpikServer
from tests.utils.tracing.runs import RUN, Run, assert_whole, billed_in, held
from tests.waiting import PATIENCE_S, until
from utils.archive import local_archive

SMALL = f"--data sample --test-mode --yes --run-id {RUN}"
GRID = f"{SMALL} --demo-datasets gsm8k ai2_arc election_questions --optimizers no_op hill_climb thompson"
SIM = "--models sim/standard"

Json = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def tracing(self) -> list[str]:
        """What it said of traces."""
        return [line for line in self.out.splitlines() if line.startswith("tracing: ")]

    @property
    def is_tidy(self) -> bool:
        return self.err == "" and "Traceback" not in self.out and "Warning" not in self.out


def environment(*servers: OpikServer | OpenAIServer, **more: str) -> dict[str, str]:
    """What a user of these servers has set, and nothing of Opik that is set on this machine."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("OPIK_")}
    known |= {"NO_PROXY": "127.0.0.1", "OPIK_CONFIG_PATH": os.devnull, "OPIK_DEFAULT_FLUSH_TIMEOUT": f"{PATIENCE_S:g}"}
    for server in servers:
        if isinstance(server, OpikServer):
            known["OPIK_URL_OVERRIDE"] = server.url
        else:
            known |= {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"}
    return {**known, **more}


def begin(words: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *shlex.split(words)],
        cwd=ROOT,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate(timeout=PATIENCE_S)
    return Said(process.returncode, out, err)


def command(words: str, env: Mapping[str, str]) -> Said:
    return end(begin(words, env))


def benchmark(folder: Path, words: str, env: Mapping[str, str]) -> Said:
    return command(f"run_benchmark.py {words} --no-probe --checkpoint-dir {folder}", env)


def push(folder: Path, env: Mapping[str, str]) -> Said:
    return command(f"check_results.py --run-id {RUN} --push-traces --checkpoint-dir {folder}", env)


def in_folder(folder: Path) -> Run:
    """The run that a command left there, as far as it came."""
    archive = local_archive(folder, RUN)
    plan = archive.load_plan()
    states = archive.states(plan.tasks)
    return Run(
        folder, replace(plan, tasks=tuple(task for task in plan.tasks if states[task.task_id].attempts)), archive
    )


def checkpoint(folder: Path) -> Json:
    found: Json = json.loads((folder / RUN / "checkpoint.json").read_text())
    return found


def outcome(folder: Path) -> Json:
    """A checkpoint less what differs between two equal runs: times, pages, and what came from the cache."""
    overview = checkpoint(folder)
    tasks = []
    for task in overview.pop("tasks"):
        kept = {name: value for name, value in task.items() if name not in ("seconds", "links", "spent", "scoring")}
        tasks.append({**kept, "spent": task["spent"]["logical"], "scoring": task["scoring"]["logical"]})
    return {**overview, "created": "", "tasks": tasks}


def billed(folder: Path) -> dict[str, float]:
    """Tokens and money by the ledgers of a checkpoint, final scoring included."""
    ledgers = [task[name]["billed"] for task in checkpoint(folder)["tasks"] for name in ("spent", "scoring")]
    names = {"prompt_tokens": "tokens_in", "completion_tokens": "tokens_out", "usd": "usd"}
    return {name: math.fsum(ledger[its] for ledger in ledgers) for name, its in names.items()}


def assert_complete(folder: Path, server: OpikServer) -> None:
    """Everything that the run's files tell of is there, once, and adds up to what was billed."""
    assert held(server) == in_folder(folder).counts()
    assert_whole(server)
    assert billed_in(server) == pytest.approx(billed(folder), abs=1e-9)
    assert {row["status"] for row in server.rows("optimizations")} == {"completed"}


# --------------------------------------------------------------------------- a run that nothing happens to


@dataclass(frozen=True)
class Done:
    """A grid, by the command."""

    folder: Path
    said: Said
    server: OpikServer


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Without tracing."""
    folder = tmp_path_factory.mktemp("plain")
    nobody = OpikServer()
    return Done(folder, benchmark(folder, f"{GRID} {SIM}", environment()), nobody)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """With it."""
    folder = tmp_path_factory.mktemp("traced")
    with OpikServer(strict=True) as server:
        yield Done(folder, benchmark(folder, f"{GRID} {SIM} --tracing", environment(server)), server)


def test_a_grid_is_in_opik_as_its_own_files_have_it(traced: Done) -> None:
    counts = in_folder(traced.folder).counts()
    assert held(traced.server) == counts
    assert counts["optimizations"] == 9
    assert counts["experiments"] > 50
    assert_whole(traced.server)
    assert traced.server.summary()["repeated"] == {}
    assert {row["status"] for row in traced.server.rows("optimizations")} == {"completed"}
    assert traced.said.code == 0
    assert traced.said.is_tidy
    assert traced.said.tracing[0].startswith(f"tracing: on, to {traced.server.url} workspace default project ")
    assert traced.said.tracing[1:] == [f"tracing: {counts['traces']} traces sent"]


def test_tokens_and_cost_of_all_spans_are_what_the_ledgers_billed(traced: Done) -> None:
    found, known = billed_in(traced.server), billed(traced.folder)
    assert found["usd"] == pytest.approx(known["usd"], abs=1e-9)
    assert [found[name] for name in ("prompt_tokens", "completion_tokens")] == [
        known[name] for name in ("prompt_tokens", "completion_tokens")
    ]
    assert known["usd"] > 0


def test_the_links_of_all_tasks_lead_to_their_optimizations(traced: Done) -> None:
    shown = command(f"check_results.py --run-id {RUN} --json --checkpoint-dir {traced.folder}", environment())
    links = {task["task_id"]: task["links"] for task in checkpoint(traced.folder)["tasks"]}
    assert {task["task_id"]: task["links"] for task in json.loads(shown.out)["tasks"]} == links
    rows = {row["id"]: row for row in traced.server.rows("optimizations")}
    assert len(links) == len(rows) == 9
    for task_id, pages in links.items():
        with urllib.request.urlopen(pages["traces"]) as page:
            assert page.status == 200
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).query)
        assert rows[asked["optimization_id"][0]]["metadata"]["task_id"] == task_id


def test_what_is_simulated_is_tagged_so(traced: Done) -> None:
    assert all("simulated" in row["tags"] for row in traced.server.rows("traces"))
    assert all(row["metadata"]["simulated"] for row in traced.server.rows("optimizations"))
    assert all(row["name"].endswith("(simulated)") for row in traced.server.rows("optimizations"))


def test_results_are_the_same_with_tracing_and_without(plain: Done, traced: Done) -> None:
    assert outcome(traced.folder) == outcome(plain.folder)


# --------------------------------------------------------------------------- a server that is not well


def ill(server: OpikServer, words: str, env: Mapping[str, str], *rules: Json) -> Said:
    server.faults(rules)
    try:
        return command(words, env)
    finally:
        server.faults([])


def refusing(server: OpikServer, words: str, env: Mapping[str, str]) -> Said:
    with server.down():
        return command(words, env)


def away(server: OpikServer, words: str, env: Mapping[str, str], seconds: float) -> Said:
    """Gone as soon as the command has begun to send, and back after so long or when the command has ended."""
    process = begin(words, env)
    until(lambda: any(row["path"].endswith("auth") for row in server.rows("requests")))
    with server.down(), suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return end(process)


TABLES = ("traces", "spans", "scores", "experiments", "experiment_items", "optimizations")
TWICE = ("hangs", "401", "loses replies")  # pushed a second time, which changes nothing
LOST = {"path": "batch|scores|items|experiment|optimiz", "drop": True, "apply": True}
TROUBLES: dict[str, Callable[[OpikServer, str, Mapping[str, str]], Said]] = {
    "refuses connections": refusing,
    "hangs": lambda *at: ill(*at, {"path": "private", "hang": 10 * PATIENCE_S}),
    "401": lambda *at: ill(*at, {"path": "private", "status": 401}),
    "429": lambda *at: ill(*at, {"path": "private", "status": 429}),
    "500": lambda *at: ill(*at, {"path": "private", "status": 500}),
    "loses replies": lambda *at: ill(*at, LOST),
    "away for 2 s": partial(away, seconds=2.0),
    "dies": partial(away, seconds=PATIENCE_S),
}


@pytest.mark.parametrize(
    "troubles",
    [
        ("hangs", "500"),
        pytest.param(("401", "refuses connections", "away for 2 s"), marks=pytest.mark.trial),
        pytest.param(("429", "loses replies", "dies"), marks=pytest.mark.trial),
    ],
    ids=" and ".join,
)
def test_a_server_in_trouble_costs_the_deadline_and_a_push_completes_it(
    troubles: tuple[str, ...], plain: Done, traced: Done, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        for shown in [pool.submit(suffer, trouble, tmp_path / trouble, plain, traced) for trouble in troubles]:
            shown.result()


def suffer(trouble: str, folder: Path, plain: Done, traced: Done) -> None:
    """A run under this trouble, and a push once it is over."""
    folder.mkdir()
    with OpikServer(strict=True) as server:
        env = environment(server)
        hurried = {} if trouble == "away for 2 s" else {"OPIK_DEFAULT_FLUSH_TIMEOUT": "1"}
        run = f"run_benchmark.py {GRID} {SIM} --checkpoint-dir {quoted(folder)}"
        said = TROUBLES[trouble](server, run, {**env, **hurried})
        assert said.code == 0, said
        assert said.is_tidy, said
        assert outcome(folder) == outcome(plain.folder)
        if trouble == "away for 2 s":
            assert said.tracing[1:] == traced.said.tracing[1:], "it was sent once the server was back"
        else:
            assert "--push-traces" in said.tracing[-1]
            assert len(said.tracing) == (1 if trouble == "refuses connections" else 2)
        _, _, hint = said.tracing[-1].partition("`python ")
        again = hint.rstrip("`") or f"check_results.py --run-id {RUN} --push-traces --checkpoint-dir {quoted(folder)}"
        pushed = command(again, env)
        assert pushed.code == 0, pushed
        assert pushed.is_tidy, pushed
        assert held(server) == held(traced.server)
        assert_complete(folder, server)
        if trouble in TWICE:
            before = {name: server.rows(name) for name in TABLES}
            assert command(again, env).code == 0
            assert {name: server.rows(name) for name in TABLES} == before


@pytest.mark.trial
def test_a_server_that_is_dead_for_30_s_of_a_longer_run_has_all_at_its_end(tmp_path: Path) -> None:
    slow = "--model-params realtime=true latency=0.6 --max-in-flight 2"
    words = f"run_benchmark.py {SMALL} --demo-datasets ai2_arc --optimizers no_op hill_climb {SIM} {slow}"
    for name in ("off", "on"):
        (tmp_path / name).mkdir()
    with OpikServer(strict=True) as server, ThreadPoolExecutor(1) as pool:
        off = pool.submit(command, f"{words} --checkpoint-dir {tmp_path / 'off'}", environment())
        on = away(server, f"{words} --checkpoint-dir {tmp_path / 'on'}", environment(server), 30.0)
        assert (on.code, on.is_tidy) == (0, True), on
        assert off.result().code == 0
        assert outcome(tmp_path / "on") == outcome(tmp_path / "off")
        assert_complete(tmp_path / "on", server)
        assert on.tracing[1:] == [f"tracing: {held(server)['traces']} traces sent"]


def quoted(folder: Path) -> str:
    return shlex.quote(str(folder))


# --------------------------------------------------------------------------- kills


def workers(folder: Path) -> list[int]:
    """The processes that hold a started file."""
    archive = local_archive(folder, RUN)
    held = [f"started/{name}" for name in archive.blobs.list("started")]
    return [json.loads(archive.blobs.read(name))["pid"] for name in held if archive.is_alive(name)]


@pytest.mark.trial
def test_what_was_recorded_before_a_kill_arrives_once_by_a_push_and_by_a_resume(tmp_path: Path) -> None:
    grid = "--demo-datasets gsm8k ai2_arc --optimizers no_op random_paraphrase few_shot:max_trials=4"
    limits = "--budget 40 --max-concurrent 2 --max-in-flight 8"
    words = f"--data sample --yes --run-id {RUN} {grid} --models {MODEL} {limits} --checkpoint-dir {tmp_path}"
    with OpikServer(strict=True) as server, OpenAIServer(answer=answering(), latency_s=(0.02, 0.06)) as provider:
        env = environment(server, provider)
        answered = provider.app.ledger.answered.total
        process = begin(f"run_benchmark.py {words}", env)
        until(lambda: answered() >= 30 and bool(workers(tmp_path)))
        os.kill(workers(tmp_path)[0], signal.SIGKILL)
        goal = answered() + 30
        until(lambda: answered() >= goal)
        process.kill()
        out, err = process.communicate(timeout=PATIENCE_S)
        assert "its worker died" in out
        assert err == ""
        until(lambda: not workers(tmp_path))

        assert push(tmp_path, env).code == 0
        assert held(server) == in_folder(tmp_path).counts()
        assert_whole(server)
        assert "cancelled" in {row["status"] for row in server.rows("optimizations")}

        resumed = benchmark(tmp_path, f"--resume-run-id {RUN}", env)
        assert (resumed.code, resumed.is_tidy) == (0, True), resumed
        assert_complete(tmp_path, server)
        assert held(server)["optimizations"] == 6
        assert not any("simulated" in row["tags"] for row in server.rows("traces"))


# --------------------------------------------------------------------------- without configuration


@pytest.fixture
def decoy(tmp_path: Path) -> dict[str, str]:
    """Variables under which a package `opik` of ours is the first to be found; it tells who imports it."""
    package = tmp_path / "packages" / "opik"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os\nopen(os.environ['IMPORTED'], 'a').write(f'{os.getpid()}\\n')\n")
    return {"PYTHONPATH": str(package.parent), "IMPORTED": str(tmp_path / "imported")}


def test_without_configuration_no_process_imports_opik_and_one_line_says_how(
    decoy: dict[str, str], tmp_path: Path
) -> None:
    imported = Path(decoy["IMPORTED"])
    one = f"{SMALL} --demo-datasets gsm8k --optimizers no_op"
    with OpenAIServer(answer=answering()) as provider, OpikServer(strict=True) as server:
        simulated = benchmark(tmp_path / "sim", f"{GRID} {SIM}", environment(**decoy))
        real = benchmark(tmp_path / "real", f"{one} --models {MODEL}", environment(provider, **decoy))
        for said in (simulated, real):
            assert (said.code, said.is_tidy) == (0, True), said
            (line,) = said.tracing
            assert line.startswith("tracing: off (not configured); set OPIK_API_KEY")
        refused = benchmark(tmp_path / "no", f"{one} {SIM} --no-tracing", environment(server, **decoy))
        assert (refused.code, refused.is_tidy) == (0, True), refused
        assert refused.tracing == ["tracing: off (--no-tracing)"]
        assert server.rows("requests") == []
        assert not imported.exists()
        assert command("-c 'import opik'", environment(**decoy)).code == 0
        assert imported.exists(), "it would have told"


def test_an_opik_that_cannot_be_used_costs_the_traces_and_a_line(decoy: dict[str, str], tmp_path: Path) -> None:
    with OpikServer(strict=True) as server:
        env = environment(server, **decoy)
        said = benchmark(tmp_path, f"{SMALL} --demo-datasets gsm8k --optimizers no_op {SIM}", env)
        assert (said.code, said.is_tidy) == (0, True), said
        assert "the package opik cannot be used (" in said.tracing[-1]
        assert "pip install --upgrade opik" in said.tracing[-1]
        pushed = push(tmp_path, env)
        assert (pushed.code, pushed.is_tidy) == (1, True), pushed
        assert "the package opik cannot be used (" in pushed.tracing[-1]


# --------------------------------------------------------------------------- what is typed


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with OpikServer(strict=True) as server:
        env = environment(server)
        with server.down():
            refused = benchmark(tmp_path, f"{GRID} {SIM} --tracing", env)
        said = {
            "cannot be kept": refused,
            "not configured": benchmark(tmp_path, f"{GRID} {SIM} --tracing", environment()),
            "--no-tracing": benchmark(tmp_path, f"{GRID} {SIM} --tracing --no-tracing", env),
            "give all, failures, or a number": benchmark(tmp_path, f"{GRID} {SIM} --trace-items some", env),
        }
        for words, each in said.items():
            (line,) = each.err.splitlines()
            assert line.startswith("error: ")
            assert words in line
            assert each.code == 2
        assert list(tmp_path.iterdir()) == []
        assert [row["path"] for row in server.rows("requests")] in ([], ["is-alive/ping"])


@pytest.mark.parametrize("items", ["failures", "2"])
def test_a_sample_of_examples_leaves_out_no_candidate_and_no_score_of_it(items: str, tmp_path: Path) -> None:
    words = f"{SMALL} --demo-datasets ai2_arc --optimizers hill_climb {SIM} --trace-items {items}"
    with OpikServer(strict=True) as server:
        said = benchmark(tmp_path, words, environment(server))
        assert (said.code, said.is_tidy) == (0, True), said
        run, found = in_folder(tmp_path), held(server)
        counts = run.counts()
        assert_whole(server)
        assert said.tracing[1:] == [f"tracing: {found['traces']} traces sent"]
        assert found["traces"] < counts["traces"]
        assert found["experiment_items"] < counts["experiment_items"]
        assert [found[name] for name in ("optimizations", "experiments")] == [1, counts["experiments"]]
        known = sorted(means(run))
        assert sorted(row["metadata"]["mean"] for row in server.rows("experiments")) == pytest.approx(known)
        if items == "2":
            assert max(len(server.state.traces_of(row["id"])) for row in server.rows("experiments")) == 2
        else:
            assert {row["value"] for row in server.rows("scores")} == {0.0}


def means(run: Run) -> list[float]:
    """The mean score of each candidate on each set of rows, by the recording of a run of one task."""
    trials: dict[tuple[str, str, str, tuple[str, ...]], None] = {}
    values: dict[tuple[str, str], float] = {}
    for record in run.lines("trace", run.plan.tasks[0].task_id):
        if trial := record.get("trial"):
            trials[trial["prompt_id"], trial["split"], trial["kind"], tuple(trial["items"])] = None
            values |= {(trial["prompt_id"], mark["item"]): mark["value"] for mark in trial["marks"]}
    return [math.fsum(values[prompt, item] for item in items) / len(items) for prompt, _, _, items in trials]
