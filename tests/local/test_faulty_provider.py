"""A provider with every fault at once, a whole grid, three kills: what is asked of it, what is paid, what comes out.

The server speaks with the voice of the simulated models, so that the optimizers have something to do, and says the same
of the same question whatever came before: the grid that is killed must end as the one that is not. Some faults pass
(malformed, null, 500, 429, hanging), others are the answer to that question for good (refused, cut).

A kill strikes while the server holds its answers back and all that it gave is in the journals. So nothing is lost with
a kill but what was never answered, and the books can be compared with the server's to the token.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmark_config import DATASETS
from tests.local.command import MODEL, archive_of, entries, start, statuses, wastes, without_times
from tests.servers.openai_server import OpenAIServer
from tests.waiting import until
from utils.dataset_specs.base import load_splits
from utils.llm.simulated import simulated_model
from utils.records import Completion, Example, Message, Request

PASSING = {"malformed": 0.01, "null": 0.01, "server_error": 0.02, "rate_limit": 0.02, "hang": 0.01}
LASTING = {"content_policy": 0.01, "cut": 0.01}
RETRY_AFTER_S = 2.0
GRID = (
    f"--data sample --demo-datasets gsm8k ai2_arc --models {MODEL} --seeds 1 2 --test-mode --yes"
    " --max-concurrent 4 --max-in-flight 16 --call-timeout 20 --run-id grid"
)


class Voice:
    """What the simulated model says to a body, found by the row that the body holds."""

    def __init__(self, datasets: list[str]) -> None:
        self._rows: list[tuple[Example, Any]] = []
        for name in datasets:
            splits = load_splits(DATASETS[name], "sample", test_mode=True)
            examples = (*splits.train, *splits.validation, *splits.test)
            self._model = simulated_model("sim/standard", {}, examples)
            self._rows += [(example, self._model) for example in examples]

    def __call__(self, body: Mapping[str, Any]) -> str:
        messages = tuple(Message(each["role"], each["content"]) for each in body["messages"])
        form = body.get("response_format")
        if form:
            return _said(self._model.complete(Request(messages, schema=form["json_schema"]["schema"]))).text
        text = messages[-1].content
        shown = [row for row in self._rows if all(value in text for value in row[0].inputs.values())]
        example, model = max(shown, key=lambda row: sum(map(len, row[0].inputs.values())))
        return _said(model.complete(Request(messages, {"temperature": 0}, item=example.id))).text


def _said(coroutine: Coroutine[Any, Any, Completion]) -> Completion:
    """The answer of a model that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        answer: Completion = done.value
        return answer
    raise AssertionError("the simulated model waits for something")


class Grid:
    """The command over and over, until the grid is done."""

    def __init__(self, folder: Path, server: OpenAIServer) -> None:
        self.folder, self.server = folder, server
        folder.mkdir()
        self.archive = archive_of(folder, "grid")
        self.begin()

    def begin(self) -> None:
        self.process = start(self.folder, GRID, self.server)

    def booked(self) -> int:
        """Tokens in the journals, every try once, less what nobody was told of: answers that never came whole."""
        spent = [entry.billed for entry in entries(self.archive)] + [waste.billed for waste in wastes(self.archive)]
        return sum(spend.tokens - spend.tokens_estimated for spend in spent)

    def billed(self) -> int:
        """Tokens that the server counted."""
        return self.server.app.ledger.tokens_in + self.server.app.ledger.tokens_out

    def strike(self, kill: Callable[[], None]) -> None:
        """Kill something while every answer that was given is written down."""
        with self.server.held():
            until(lambda: self.booked() == self.billed(), "an answer that was given is not in a journal")
            kill()

    def kill_command(self) -> None:
        self.process.kill()
        self.process.wait()
        until(lambda: not self.at_work(), "a worker outlives the command")

    def kill_worker(self) -> None:
        victim = self.at_work()[0]
        os.kill(json.loads(self.archive.blobs.read(victim))["pid"], signal.SIGKILL)
        until(lambda: not self.archive.is_alive(victim), "a killed worker lives on")

    def at_work(self) -> list[str]:
        """The started files of the workers that live."""
        names = [f"started/{name}" for name in self.archive.blobs.list("started")]
        return [name for name in names if self.archive.is_alive(name)]

    def overview(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "grid" / "checkpoint.json").read_text())
        return found


def outcome(overview: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What must be the same whatever was killed: everything but times, attempts, and who paid for a shared answer."""
    tasks = without_times(overview)["tasks"]
    for task in tasks:
        del task["paid"]
        for books in ("spent", "scoring"):
            task[books] = task[books]["logical"]
    return sorted(tasks, key=lambda task: str(task["task_id"]))


@pytest.mark.trial
def test_a_grid_on_a_faulty_provider_killed_three_times_ends_as_the_one_that_is_not(tmp_path: Path) -> None:
    answers = Voice(["gsm8k", "ai2_arc"])
    ends, rng = [], random.Random(7)
    for name, kills in (("calm", 0), ("killed", 3)):
        with OpenAIServer(
            answer=answers, faults=PASSING, lasting=LASTING, retry_after_s=RETRY_AFTER_S, latency_s=(0.005, 0.05)
        ) as server:
            grid = Grid(tmp_path / name, server)
            for number in range(kills):
                goal = server.app.ledger.answered.total() + rng.randint(200, 600)
                until(lambda goal=goal: server.app.ledger.answered.total() > goal, "the run does not go on")
                if number == 1:
                    grid.strike(grid.kill_worker)
                else:
                    grid.strike(grid.kill_command)
                    grid.begin()
            code = grid.process.wait()
            said = (grid.folder / "output.txt").read_text()
            assert code == 0, said
            overview = grid.overview()
            assert statuses(overview) == {"completed": 2 * 11 * 2}, said
            assert grid.booked() == grid.billed()
            stats = server.stats()
            assert stats["early_retries"] == stats["early_sends"] == 0, (
                "nothing is sent before a Retry-After has run out"
            )
            ends.append(outcome(overview))
    assert ends[0] == ends[1]
