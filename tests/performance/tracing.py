"""What tracing costs: CPU of a worker for writing down, and CPU of whoever sends.

    python tests/performance/tracing.py

Real tasks on simulated models; the server is a process of its own. Prints CPU milliseconds; asserts nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.servers.opik_server import spawned
from tests.utils.tracing.runs import Run, task
from utils.archive import Folder
from utils.errors import ErrorKind
from utils.journal import Entry, read_line
from utils.records import Evaluation, ItemScore, Score, Step
from utils.serialization import dumps
from utils.tracing.client import OpikClient
from utils.tracing.exporter import push
from utils.tracing.records import Kind, Recording, Trial, read_record
from utils.tracing.target import Target

CALLS = 1000  # budget of a task
OPTIMIZERS = ("hill_climb", "evolutionary_optimizer", "thompson")


def cpu_ms(began: float) -> float:
    return (time.process_time() - began) * 1000


def recording_ms(run: Run, folder: Path) -> dict[str, float]:
    """CPU for one model call, by optimizer: the trials and steps of a real run, written down again."""
    found: dict[str, float] = {}
    for number, spec in enumerate(run.plan.tasks):
        records = [read_record(dumps(record)) for record in run.lines("trace", spec.task_id)]
        calls = sum("key" in record for record in run.lines("journal", spec.task_id))
        prompts = {record.prompt_id: record.prompt for record in records if isinstance(record, Trial) and record.prompt}
        marks = {
            (record.prompt_id, mark.item): mark
            for record in records
            if isinstance(record, Trial)
            for mark in record.marks
        }
        recording = Recording(Folder(folder).appender(f"again{number}.jsonl"))
        told: list[tuple[Kind | None, object]] = []
        for record in records:
            if isinstance(record, Step):
                told.append((None, record))
            elif isinstance(record, Trial):
                items = tuple(_item(marks[record.prompt_id, name]) for name in record.items)
                told.append((record.kind, Evaluation(prompts[record.prompt_id], record.split, items)))
        began = time.process_time()
        for kind, what in told:
            if isinstance(what, Step):
                recording.step(what)
            elif isinstance(what, Evaluation) and kind is Kind.EVALUATION:
                recording.trial(what)
            elif isinstance(what, Evaluation):
                recording.interactions([what.prompt] * len(what.items), what.items)
        found[spec.optimizer] = cpu_ms(began) / calls
    return found


def _item(mark: object) -> ItemScore:
    value, reason = mark.value, mark.reason  # type: ignore[attr-defined]
    if value is None:
        return ItemScore(mark.item, error=ErrorKind.TRANSIENT)  # type: ignore[attr-defined]
    return ItemScore(mark.item, "answer", Score(value, reason))  # type: ignore[attr-defined]


def journal_ms(run: Run) -> float:
    """CPU for one line of the journal, for comparison: it is written with tracing and without."""
    lines = [dumps(record) for record in run.lines("journal", run.plan.tasks[0].task_id)]
    entries = [entry for entry in map(read_line, lines) if isinstance(entry, Entry)]
    began = time.process_time()
    for entry in entries:
        dumps(entry)
    return cpu_ms(began) / len(entries)


def main() -> None:
    for name in [each for each in os.environ if each.startswith("OPIK_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder, spawned("--strict") as server:
        root = Path(folder)
        run = Run.planned(root, [task(name, "ai2_arc", CALLS) for name in OPTIMIZERS])
        for spec in run.plan.tasks:
            run.attempt(spec, run.begin(spec))
        print(f"one line of the journal        {journal_ms(run):7.3f} ms")
        for name, each in recording_ms(run, root).items():
            print(f"recording, a model call of {name[:12]:12s} {each:7.3f} ms")
        target = Target(server.url)
        began = time.process_time()
        OpikClient(target).close()
        print(f"import opik, make a client     {cpu_ms(began):7.0f} ms, once")
        began, wall = time.process_time(), time.monotonic()
        left = push(run.archive, run.plan, target)
        spent, took = cpu_ms(began), time.monotonic() - wall
        print(f"sending, an item               {spent / left.sent:7.3f} ms ({left.sent} items in {took:.1f} s, {left})")
        began = time.process_time()
        push(run.archive, run.plan, target)
        print(f"a second push                  {cpu_ms(began):7.0f} ms")
        print(server.summary()["answers"])


if __name__ == "__main__":
    main()
