"""Real small runs for tests of tracing: tasks on simulated models, done by `attempt`; and what their own files say.

The counts are made here from the files, line by line, without the code under test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark_task import Place, attempt, load_work
from tests.servers.opik_server import OpikServer
from utils.archive import Attempt, Kind, RunArchive, local_archive
from utils.records import Budget, RunPlan, TaskResult, TaskSpec
from utils.tracing.target import Target

RUN = "traced"
AMISS = ("doubled", "open_traces", "open_spans", "orphan_spans", "orphan_scores", "dangling_items")


def task(optimizer: str, dataset: str = "gsm8k", calls: int = 60, **more: Any) -> TaskSpec:
    return TaskSpec(dataset, optimizer, "sim/standard", 1, data="sample", budget=Budget(calls), **more)


@dataclass(frozen=True)
class Run:
    """A run in a folder."""

    root: Path
    plan: RunPlan
    archive: RunArchive

    @staticmethod
    def planned(root: Path, specs: Iterable[TaskSpec]) -> Run:
        archive = local_archive(root, RUN)
        plan = RunPlan(RUN, datetime.now(UTC).isoformat(timespec="seconds"), tuple(specs))
        archive.save_plan(plan)
        archive.submit(Kind.NEW, plan.tasks, plan.created)
        for spec in plan.tasks:
            archive.save_splits(spec, load_work(spec).splits)
        return Run(root, plan, archive)

    def copied(self, root: Path) -> Run:
        shutil.copytree(self.root / RUN, root / RUN)
        return Run(root, self.plan, local_archive(root, RUN))

    def begin(self, spec: TaskSpec, number: int = 1, submission: int = 1) -> Attempt:
        begun = Attempt(spec.task_id, submission, f"{number:03d}")
        self.archive.blobs.write(self.archive.started_name(begun), b"{}")
        return begun

    def attempt(self, spec: TaskSpec, now: Attempt, *earlier: Attempt, **more: Any) -> TaskResult | None:
        return attempt(spec, Place(self.archive, now, earlier, **more))

    def path(self, folder: str, which: Attempt) -> Path:
        return self.root / RUN / folder / f"{which}.jsonl"

    def edit(self, change: Callable[[str, dict[str, Any]], Any]) -> None:
        """Rewrite every line of all journals and recordings; `change` is told the folder, None drops the line."""
        for folder in ("journal", "trace"):
            for path in (self.root / RUN / folder).iterdir():
                read = map(json.loads, path.read_text().splitlines())
                records = [change(folder, record) for record in read if "format" not in record]
                path.write_text("".join(json.dumps(record) + "\n" for record in records if record is not None))

    # ------------------------------------------------------------------ what its files say

    def lines(self, folder: str, task_id: str) -> Iterator[dict[str, Any]]:
        for path in sorted((self.root / RUN / folder).glob(f"{task_id}@*.jsonl")):
            for line in path.read_bytes().decode("utf-8", "replace").split("\n"):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # torn
                if "format" not in record:
                    yield record

    def counts(self) -> dict[str, int]:
        """How many rows of each table there have to be."""
        found = dict.fromkeys(("optimizations", "experiments", "traces", "spans", "scores", "experiment_items"), 0)
        for spec in self.plan.tasks:
            calls = {
                (e["key"], e["occurrence"], bool(e["failed"])): e
                for e in self.lines("journal", spec.task_id)
                if "key" in e
            }
            trials: dict[Any, set[str]] = {}
            values: dict[tuple[str, str], float | None] = {}
            for record in self.lines("trace", spec.task_id):
                if trial := record.get("trial"):
                    rows = () if trial["kind"] == "interactions" else tuple(trial["items"])
                    trials.setdefault((trial["prompt_id"], trial["split"], trial["kind"], rows), set()).update(
                        trial["items"]
                    )
                    for mark in trial["marks"]:
                        at = (trial["prompt_id"], mark["item"])
                        values[at] = mark["value"] if values.get(at) is None else values[at]
            asks = [place for place, entry in calls.items() if entry["role"] == "optimizer"]
            pairs = {(entry["prompt"], entry["item"]) for entry in calls.values() if entry["role"] != "optimizer"}
            found["optimizations"] += 1
            found["experiments"] += len(trials)
            found["traces"] += len(pairs) + len(asks)
            found["spans"] += len(calls)
            found["scores"] += sum(value is not None for value in values.values())
            found["experiment_items"] += sum(map(len, trials.values()))
        return found

    def billed(self) -> dict[str, float]:
        """Tokens and money that the results say were billed, final scoring included."""
        sums = {"prompt_tokens": 0.0, "completion_tokens": 0.0, "usd": 0.0}
        for state in self.archive.states(self.plan.tasks).values():
            result = self.archive.load_result(state.result)
            spent = result.spent.billed + result.scoring.billed
            sums["prompt_tokens"] += spent.tokens_in
            sums["completion_tokens"] += spent.tokens_out
            sums["usd"] += spent.usd or 0.0
        return sums


def held(server: OpikServer) -> dict[str, int]:
    """How many rows the server has of each table."""
    summary = server.summary()
    names = ("optimizations", "experiments", "traces", "spans", "scores", "experiment_items")
    return {name: summary[name] for name in names}


def assert_whole(server: OpikServer) -> None:
    """No orphan, nothing open, nothing twice, nothing that a backend would refuse."""
    summary = server.summary()
    assert not {name: summary[name] for name in (*AMISS, "problems", "unknown") if summary[name]}, server.state.problems


def billed_in(server: OpikServer) -> dict[str, float]:
    spans = server.rows("spans")
    sums = {
        name: float(sum((span.get("usage") or {}).get(name, 0) for span in spans))
        for name in ("prompt_tokens", "completion_tokens")
    }
    return {**sums, "usd": sum(span.get("total_estimated_cost") or 0.0 for span in spans)}


def target_of(server: OpikServer, **more: Any) -> Target:
    return Target(server.url, **more)
