"""The control plane as a process that lives as long as a test wants it. Needs no `modal` here, only there."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.servers.modal.settings import Settings
from tests.waiting import PATIENCE_S, until

CHECKOUT = Path(__file__).parents[3]

Json = dict[str, Any]


@dataclass(frozen=True)
class Plane:
    """A running control plane, seen from a test."""

    folder: Path
    grpc_url: str
    http_url: str
    isolation: str  # overlay or links, as it was possible
    volume_mode: str
    pid: int

    @property
    def env(self) -> dict[str, str]:
        """The variables that make `modal` talk to this control plane, and to no other."""
        return {
            "MODAL_SERVER_URL": self.grpc_url,
            "MODAL_TOKEN_ID": "ak-test",
            "MODAL_TOKEN_SECRET": "as-test",
            "MODAL_CONFIG_PATH": str(self.folder / "no-such.toml"),
        }

    def state(self, full: bool = False) -> Json:
        """What there is and what was counted; `full` adds every input, ended container, image and mounted file."""
        return dict(json.loads(self._ask("state", full=int(full))))

    def logs(self, task: str = "") -> str:
        """What the containers printed, or only this one."""
        return self._ask("logs", task=task)

    def faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Puts these rules in force, in place of those before; faults.Rule has their fields."""
        self._ask("faults", json.dumps(list(rules)).encode())

    def kill(self, task: str = "", how: str = "kill") -> int:
        """Kills this container, or all: "kill" at once, "int" as a preemption does; returns how many."""
        return int(json.loads(self._ask("kill", b"", task=task, how=how))["killed"])

    def volume(self, name: str) -> Path:
        """The folder with the committed files of this volume."""
        return self.folder / "volumes" / name / "master"

    def _ask(self, question: str, body: bytes | None = None, **query: object) -> str:
        url = f"{self.http_url}/admin/{question}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=PATIENCE_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from error


@contextlib.contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Plane]:
    """A control plane that keeps everything in this folder; keyword arguments are the fields of Settings.

    It ends with the block, its containers with it; and also if this process is killed.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)  # of a server before this one
    wanted = json.dumps(asdict(Settings(**settings)), default=str)
    command = [sys.executable, "-m", "tests.servers.modal", "--until-closed", str(folder), wanted]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            facts = _await_ready(ready, process)
            yield Plane(folder, facts["grpc"], facts["http"], facts["isolation"], facts["volume_mode"], process.pid)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()  # the kernel kills its containers


def _await_ready(ready: Path, process: subprocess.Popen[bytes]) -> Json:
    log = ready.with_name("server.log")
    until(lambda: process.poll() is not None or ready.exists(), log.read_text)
    assert process.returncode is None, f"the control plane did not start: {log.read_text()}"
    return dict(json.loads(ready.read_text()))
