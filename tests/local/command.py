"""The real command, run as a user runs it, and what it left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S
from utils.archive import RunArchive, local_archive
from utils.journal import Entry, Waste, read_lines

ROOT = Path(__file__).parents[2]
MODEL = "openai/gpt-4o-mini"  # a name that litellm knows to take a JSON schema


def environment(server: OpenAIServer | None = None, key: str = "none") -> dict[str, str]:
    """The environment of a user who talks to this server."""
    talk = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": key} if server else {}
    return {**os.environ, **talk, "NO_PROXY": "127.0.0.1"}


def start(folder: Path, words: str, server: OpenAIServer | None = None, **more: Any) -> subprocess.Popen[str]:
    """The command, begun; output goes to `output.txt` in the folder unless said otherwise."""
    command = [sys.executable, "run_benchmark.py", *words.split(), "--no-probe", "--checkpoint-dir", str(folder)]
    with (folder / "output.txt").open("a") as log:
        streams = {"stdout": log, "stderr": log, **more}
        return subprocess.Popen(command, cwd=ROOT, env=environment(server), text=True, **streams)


def run(folder: Path, words: str, server: OpenAIServer | None = None) -> int:
    """The command, to its end; its exit code."""
    return start(folder, words, server).wait(PATIENCE_S)


def archive_of(folder: Path, run_id: str) -> RunArchive:
    return local_archive(folder, run_id)


def entries(archive: RunArchive) -> Iterator[Entry]:
    """Every call in every journal, once a call of a task."""
    seen = set()
    for name in archive.blobs.list("journal"):
        for entry in read_lines(archive.blobs.read(f"journal/{name}").decode(), name):
            if isinstance(entry, Entry):
                place = (name.partition("@")[0], entry.key, entry.occurrence)
                if place not in seen:
                    seen.add(place)
                    yield entry


def wastes(archive: RunArchive) -> Iterator[Waste]:
    """Every try in every journal that was paid without a usable answer."""
    for name in archive.blobs.list("journal"):
        for waste in read_lines(archive.blobs.read(f"journal/{name}").decode(), name):
            if isinstance(waste, Waste):
                yield waste


def without_times(overview: Mapping[str, Any]) -> dict[str, Any]:
    """An overview less what differs between two equal runs: names and times."""
    tasks = [
        {name: value for name, value in task.items() if name not in ("seconds", "attempts")}
        for task in overview["tasks"]
    ]
    return {**{name: value for name, value in overview.items() if name not in ("run_id", "created")}, "tasks": tasks}


def statuses(overview: Mapping[str, Any]) -> Counter[str]:
    return Counter(task["status"] for task in overview["tasks"])
