"""SIGKILL at any moment, resume, and nothing is lost or paid twice: the whole product over HTTP.

The server answers differently each time it is asked, so a call that is asked again shows: the result would change.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark_task import build_optimizer, load_work, run_task
from tests.local.command import MODEL, ROOT, entries, environment
from tests.models import Scripted
from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S, until
from utils.archive import RunArchive, local_archive
from utils.door import Door
from utils.errors import CallError, ErrorKind
from utils.journal import Journal
from utils.ledger import Ledger
from utils.records import Role, Status, TaskResult, TaskSpec
from utils.serialization import encode

WORKERS, IN_FLIGHT = 2, 8
KILLS = 20


def answering() -> Any:
    """Another answer each time, JSON where a schema came: a rewritten prompt that keeps its placeholders."""
    count = itertools.count()

    def answer(body: dict[str, Any]) -> str:
        number = next(count)
        if "response_format" not in body:
            return f"{number} is my answer: {'ABCD'[number % 4]}\n#### {number % 7}"
        properties = body["response_format"]["json_schema"]["schema"]["properties"]
        if "slot" in properties:
            return json.dumps({"slot": "system", "template": "{question} -> {target}"})
        said = body["messages"][1]["content"]
        user = said.partition("<user>\n")[2].partition("\n</user>")[0]
        return json.dumps({"system": f"Wording number {number}.", **({"user": user} if "user" in properties else {})})

    return answer


def command(folder: Path) -> list[str]:
    lists = "--demo-datasets gsm8k ai2_arc --optimizers no_op random_paraphrase few_shot:max_trials=6"
    limits = f"--budget 100 --max-concurrent {WORKERS} --max-in-flight {IN_FLIGHT}"
    words = (
        f"{lists} --models {MODEL} --data sample {limits} --run-id killed --yes --no-probe --checkpoint-dir {folder}"
    )
    return [sys.executable, "run_benchmark.py", *words.split()]


class Run:
    """The command, started again after each kill of the parent."""

    def __init__(self, folder: Path, server: OpenAIServer) -> None:
        self.folder = folder
        self.env = environment(server)
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        with (self.folder / f"output-{self.starts}.txt").open("w") as log:
            self.process = subprocess.Popen(command(self.folder), cwd=ROOT, env=self.env, stdout=log, stderr=log)

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def workers(self) -> list[int]:
        """The processes that hold a started file."""
        alive = local_archive(self.folder, "killed")
        names = alive.blobs.list("started")
        held = [name for name in names if alive.is_alive(f"started/{name}")]
        return [json.loads(alive.blobs.read(f"started/{name}"))["pid"] for name in held]

    def kill_parent(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()

    def kill_worker(self, rng: random.Random) -> bool:
        pids = self.workers()
        if pids:
            os.kill(rng.choice(pids), signal.SIGKILL)
        return bool(pids)


def replayed(archive: RunArchive, spec: TaskSpec) -> tuple[TaskResult, Scripted]:
    """The task run again from its start, with nothing but its own journals to answer."""
    model = Scripted(lambda request, count: CallError(ErrorKind.INTERNAL, "nothing may be asked"), name=spec.model)
    journal = Journal(lambda line: None)
    for attempt in archive.states([spec])[spec.task_id].attempts:
        journal.read(archive.read_journal(attempt))
    door = Door({Role.TASK: model, Role.OPTIMIZER: model}, journal, Ledger(spec.budget))
    try:
        return run_task(spec, load_work(spec, archive.load_splits(spec)), build_optimizer(spec), door), model
    finally:
        door.close()


def test_a_run_killed_20_times_ends_as_its_journal_says_and_pays_no_answer_twice(tmp_path: Path) -> None:
    rng = random.Random(20)
    with OpenAIServer(answer=answering(), latency_s=(0.01, 0.06)) as server:
        server.gate.hold()
        run = Run(tmp_path, server)
        kills, parent_kills = 0, 0
        while kills < KILLS:
            goal = server.answered + rng.randint(5, 30)
            # some more than the kill waits for: it strikes while answers come, and the run does not get away from it
            server.gate.let(goal + IN_FLIGHT - server.answered - server.gate.places)
            until(lambda goal=goal: server.answered >= goal or run.is_over)
            assert not run.is_over, f"over after {kills} kills: {(tmp_path / f'output-{run.starts}.txt').read_text()}"
            if parent_kills < KILLS // 3 and rng.random() < 0.4:
                run.kill_parent()
                parent_kills += 1
                kills += 1
            else:
                kills += run.kill_worker(rng)
        server.gate.open()
        assert run.process.wait(PATIENCE_S) in (0, 1)
        stats = server.stats()
        requests_before = stats["requests"]

        archive = local_archive(tmp_path, "killed")
        plan = archive.load_plan()
        states = archive.states(plan.tasks)
        assert parent_kills >= 3
        assert all(state.status.is_final for state in states.values())

        for spec in plan.tasks:
            stored = archive.load_details(states[spec.task_id].result)
            assert stored.status is Status.COMPLETED, stored.error
            again, model = replayed(archive, spec)
            assert model.requests == []
            assert encode(replace(again, seconds=0.0)) == encode(replace(stored, seconds=0.0, code=""))

        paid = [entry for entry in entries(archive) if entry.billed.calls]
        lost = stats["answered"] - len(paid)
        at_risk = IN_FLIGHT * parent_kills + IN_FLIGHT // WORKERS * (kills - parent_kills)
        assert 0 <= lost <= at_risk
        asked_once = Counter(entry.key for entry in paid if entry.role is Role.TASK)
        assert set(asked_once.values()) == {1}, "an answered question was paid for by two tasks, or twice"

        assert subprocess.run(command(tmp_path), cwd=ROOT, env=run.env, capture_output=True).returncode == 0
        assert server.stats()["requests"] == requests_before, "a finished run asks nothing"


@pytest.mark.trial
@pytest.mark.parametrize("seed", range(5))
def test_other_moments(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = random.Random(seed)
    monkeypatch.setattr(random, "Random", lambda _: fixed)
    test_a_run_killed_20_times_ends_as_its_journal_says_and_pays_no_answer_twice(tmp_path)
