"""What tracing costs: CPU of a worker for writing down, CPU of whoever sends, and how long a run takes beside it.

    python tests/performance/tracing.py            CPU: real tasks on simulated models
    python tests/performance/tracing.py --wall     seconds: the command, on a provider that takes its time to answer;
                                                   --wall 1: one round of it

Opik's server is a process of its own. Asserts nothing.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.servers.openai_server import OpenAIServer
from tests.servers.opik_server import Remote, spawned
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

# the comparison of seconds
ROUNDS = 3  # medians of
LATENCY_S = (0.1, 0.3)
LISTS = "--demo-datasets gsm8k ai2_arc --optimizers no_op hill_climb thompson --data sample"
WORDS = f"{LISTS} --models openai/gpt-4o-mini --budget 60 --max-concurrent 3 --max-in-flight 12 --yes"
SERVERS: dict[str, list[dict[str, Any]] | None] = {  # what is wrong with it; None: no tracing
    "off": None,
    "good server": [],
    "hanging server": [{"path": "private", "hang": 600.0}],
    "500s": [{"path": "private", "status": 500}],
}


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


# --------------------------------------------------------------------------- seconds


def answer(body: dict[str, Any]) -> str:
    """An answer that the question decides, so that every run asks the same."""
    number = zlib.crc32(json.dumps(body).encode())
    if "response_format" not in body:
        return f"My answer: {'ABCD'[number % 4]}\n#### {number % 7}"
    fields = body["response_format"]["json_schema"]["schema"]["properties"]
    said = body["messages"][1]["content"]
    user = said.partition("<user>\n")[2].partition("\n</user>")[0]
    return json.dumps({"system": f"Wording number {number}.", **({"user": user} if "user" in fields else {})})


def seconds(provider: OpenAIServer, server: Remote, rules: list[dict[str, Any]] | None) -> dict[str, float]:
    """The command once: from its first start to its last completion, the whole of it, and its CPU."""
    server.faults([])
    server.reset()
    server.faults(rules or [])
    known = {name: value for name, value in os.environ.items() if not name.startswith("OPIK_")}
    known |= {"NO_PROXY": "127.0.0.1", "OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "none"}
    known |= {"OPIK_CONFIG_PATH": os.devnull} | ({} if rules is None else {"OPIK_URL_OVERRIDE": server.url})
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "run_benchmark.py", *WORDS.split(), "--checkpoint-dir", folder]
        used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, cwd=root, env=known, text=True, stdout=subprocess.PIPE) as process:
            assert process.stdout
            for line in process.stdout:
                marks += [time.monotonic()] * line[9:].startswith(("started ", "completed ", "failed "))
        took, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {"run": marks[-1] - marks[0], "command": took, "cpu": cpu}


def compare_seconds(rounds: int) -> None:
    with OpenAIServer(answer=answer, latency_s=LATENCY_S) as provider, spawned("--strict") as server:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in SERVERS}
        for _ in range(rounds):  # in turn, so that what else the machine does strikes all alike
            for name, rules in SERVERS.items():
                found[name].append(seconds(provider, server, rules))
    print(f"{'tracing':16}{'run':>9}{'against off':>13}{'command':>10}{'beside it':>15}{'CPU':>8}    runs")
    off = statistics.median(each["run"] for each in found["off"])
    for name, each in found.items():
        run, command, cpu = (statistics.median(one[what] for one in each) for what in ("run", "command", "cpu"))
        runs = ", ".join(f"{one['run']:.2f}" for one in each)
        after = command - run
        print(f"{name:16}{run:7.2f} s{run / off - 1:+12.1%}{command:8.2f} s{after:13.2f} s{cpu:6.1f} s    {runs}")


# --------------------------------------------------------------------------- all


def main() -> None:
    if "--wall" in sys.argv[1:]:
        compare_seconds(int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS)
        return
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
