"""The real commands against the double of Modal, and what they left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import check_results
import run_benchmark
from tests.servers.modal import Plane, running
from tests.waiting import PATIENCE_S, until
from utils.archive import RunArchive, local_archive

ROOT = Path(__file__).parents[2]
# what a container must not find on this machine; the interpreter's own packages may lie beside it
HIDDEN = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
NOWHERE = {  # a provider that nobody is to reach, and no Opik
    "NO_PROXY": "127.0.0.1",
    "OPIK_CONFIG_PATH": os.devnull,
}

OURS = {"run_benchmark.py": run_benchmark.cli, "check_results.py": check_results.cli}

Json = dict[str, Any]


class Cloud:
    """A deployed app on a control plane, with the commands of a user."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.env = {**os.environ, **NOWHERE, **plane.env}

    def start(self, *words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A command, begun."""
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=cwd,
            env=self.env if env is None else env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self, *words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """A command to its end: its exit code, and what it said.

        One of ours runs in this process: the same, but for the seconds that importing modal takes.
        """
        if words[0] in OURS and cwd == ROOT and env is None:
            return self._called(OURS[words[0]], words[1:])
        process = self.start(*words, cwd=cwd, env=env)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def _called(self, cli: Callable[[list[str]], int], words: Sequence[str]) -> tuple[int, str, str]:
        out, err = StringIO(), StringIO()
        surroundings = patch.dict(os.environ, {**self.env, "COLUMNS": "80"}, clear=True)
        with surroundings, client_of(self.plane), redirect_stdout(out), redirect_stderr(err):
            code = cli(list(words))
        return code, out.getvalue(), err.getvalue()

    def run(self, *words: str, code: int | None = 0, cwd: Path = ROOT) -> str:
        """A command to its end: what it said."""
        ended, out, err = self.end(*words, cwd=cwd)
        assert code in (None, ended), out + err + self.plane.logs()[-4000:]
        return out + err

    def deploy(self, cwd: Path = ROOT) -> str:
        return self.run("-m", "modal", "deploy", "benchmark_worker.py", cwd=cwd)

    def submit(self, *words: str, code: int | None = 0) -> str:
        return self.run("run_benchmark.py", "--modal", *words, code=code)

    def refuse(self, *words: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
        """A command that is refused: the one line that says why. Nothing was submitted."""
        before = self._submitted
        code, out, err = self.end(*words, cwd=cwd, env=env)
        assert code == 2, out + err
        (line,) = (line for line in err.splitlines() if not line.startswith("waiting for the first container"))
        assert line.startswith("error: ")
        assert self._submitted == before, "something was submitted"
        return line

    @property
    def _submitted(self) -> tuple[int, list[str]]:
        return len(self.calls()), sorted(map(str, self.plane.volume("optimizer-benchmarks").glob("runs/*/*")))

    def calls(self, function: str = "run_task") -> list[Json]:
        """All calls of a function, of whatever variant."""
        state = self.plane.state(full=True)
        ids = {each["id"] for each in state["functions"] if each["name"] == function}
        return [call for call in state["input_list"] if call["function"] in ids]

    def look(self, run_id: str) -> Json:
        """The run as it is now."""
        code, out, err = self.end("check_results.py", "--modal", "--run-id", run_id, "--json")
        assert code in (0, 1, 3), out + err
        overview: Json = json.loads(out)
        return overview

    def wait(self, run_id: str) -> Json:
        """The overview of a run once no container works on it."""
        until(lambda: not self.open_inputs, lambda: self.plane.logs()[-4000:])
        return self.look(run_id)

    @property
    def interrupted(self) -> int:
        """How many containers were told to leave a task, and have heard it."""
        return self.plane.logs().count("the container must go")

    @property
    def open_inputs(self) -> int:
        """Calls that are queued or running, of whatever function."""
        counts = self.plane.state()["inputs"]
        return sum(counts.get(state, 0) for state in ("pending", "waiting", "running"))

    def archive(self, run_id: str) -> RunArchive:
        """The run as its committed files have it."""
        return local_archive(self.plane.volume("optimizer-benchmarks") / "runs", run_id)

    @property
    def volume(self) -> Json:
        """The statistics of the volume."""
        found: Json = self.plane.state()["volumes"]["optimizer-benchmarks"]
        return found


@contextmanager
def cloud(folder: Path, **settings: Any) -> Iterator[Cloud]:
    """A control plane with our app deployed to it. Skips where containers cannot have a root of their own."""
    with running(folder, hide=HIDDEN, **settings) as plane:
        if plane.isolation != "overlay":
            pytest.skip("containers with a file system of their own need root on Linux")
        deployed = Cloud(plane)
        deployed.deploy()
        yield deployed


def checkout(folder: Path) -> Path:
    """A copy of what a user works with, to be changed."""
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "build", "*.egg-info", "benchmark_results")
    return Path(shutil.copytree(ROOT, folder, ignore=unwanted))


@contextmanager
def client_of(plane: Plane) -> Iterator[Any]:
    """Modal's client in this process, for whoever asks for one without saying which."""
    with patch.dict(os.environ, plane.env):
        import modal

        with modal.Client.from_env() as client:
            yield client


def statuses(overview: Mapping[str, Any]) -> Counter[str]:
    return Counter(task["status"] for task in overview["tasks"])


def outcomes(overview: Mapping[str, Any]) -> dict[str, Json]:
    """What came of each task, less what differs between two equal runs: times, money saved by a cache, pages."""
    found = {}
    for task in overview["tasks"]:
        kept = {name: value for name, value in task.items() if name not in ("seconds", "attempts", "links")}
        for name in ("spent", "scoring"):
            kept[name] = kept[name] and kept[name]["logical"]
        found[task["task_id"]] = kept
    return found
