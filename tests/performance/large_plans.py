"""What a large plan costs: dry run, status, resume and checkpoint for 1,000 and 10,000 tasks.

    python tests/performance/large_plans.py

Prints seconds and the ratio between the two sizes; a cost that grows in proportion has a ratio of about 10. Asserts
nothing: wall clocks differ.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmark_config import Settings
from benchmark_task import Place, attempt, expand
from local.checkpoint import Checkpoint
from utils.archive import Attempt, Kind, local_archive
from utils.records import RunPlan, TaskSpec
from utils.report.overview import Overview

SIZES = (1_000, 10_000)


def tasks_of(size: int) -> tuple[TaskSpec, ...]:
    """So many cells: two datasets, one optimizer, seeds."""
    seeds = tuple(range(size // 2))
    names = ("gsm8k", "ai2_arc")
    return expand(
        Settings(demo_datasets=names, optimizers=("no_op",), models=("sim/standard",), seeds=seeds, data="sample")
    )


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def finished_run(root: Path, size: int) -> RunPlan:
    """A run of that size in which every task is done: one real result, under every name."""
    tasks = tasks_of(size)
    plan = RunPlan("large", "2026-01-01T00:00:00+00:00", tasks)
    archive = local_archive(root, plan.run_id)
    archive.save_plan(plan)
    archive.submit(Kind.NEW, tasks, plan.created)
    result = attempt(tasks[0], Place(archive, Attempt(tasks[0].task_id, 1, "001")))
    assert result is not None
    for task in tasks:
        name = Attempt(task.task_id, 1, "001")
        archive.blobs.write(archive.started_name(name), b"")
        archive.save_result(name, replace(result, task_id=task.task_id))
    return plan


def dry_run(size: int) -> float:
    """The whole command, as typed."""
    grid = "--data sample --demo-datasets gsm8k ai2_arc --optimizers no_op --models sim/standard"
    words = f"run_benchmark.py {grid} --dry-run"
    seeds = [str(seed) for seed in range(size // 2)]
    command = [sys.executable, *words.split(), "--seeds", *seeds]
    return seconds(lambda: subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True))


def measure(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        plan = finished_run(Path(folder), size)
        archive = local_archive(Path(folder), plan.run_id)
        overview = Overview(archive, plan)
        return {
            "dry run, whole command": dry_run(size),
            "load the plan": seconds(archive.load_plan),
            "state of all tasks (resume)": seconds(lambda: archive.states(plan.tasks)),
            "first status, every result read": seconds(overview.render),
            "next status, nothing new": seconds(overview.render),
            "checkpoint": seconds(lambda: Checkpoint(archive, overview).write(stopped=False)),
        }


def main() -> None:
    small, large = (measure(size) for size in SIZES)
    print(f"{'':34}{SIZES[0]:>10,}{SIZES[1]:>10,}{'ratio':>8}")
    for name in small:
        print(f"{name:34}{small[name]:>9.3f}s{large[name]:>9.3f}s{large[name] / small[name]:>8.1f}")


if __name__ == "__main__":
    main()
