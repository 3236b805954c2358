"""How fast the command answers, how soon a task works, and what a worker costs in memory.

    python tests/performance/startup.py

Prints medians of five, and for each worker the memory that it alone holds (private pages; Linux only). Asserts nothing.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.local.command import ROOT, start
from tests.servers.openai_server import OpenAIServer

REPEATS = 5


def timed(action: Callable[[Path], object]) -> float:
    """Median seconds."""
    found = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            action(Path(folder))
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def show_help(_: Path) -> None:
    subprocess.run([sys.executable, "run_benchmark.py", "--help"], cwd=ROOT, check=True, capture_output=True)


GRID = "--data sample --demo-datasets gsm8k --optimizers no_op --models {model} --seeds 1 2 3 --run-id r --yes"


def first_journal_line(folder: Path) -> None:
    """Until a task has its first answer."""
    process = start(folder, GRID.format(model="sim/standard"))
    while not any(path.stat().st_size for path in folder.glob("r/journal/*")):
        time.sleep(0.002)
    process.kill()
    process.wait()


def private_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(r"Private_\w+:\s+(\d+) kB", text)) / 1024


def workers(folder: Path, words: str, server: OpenAIServer | None = None) -> list[float]:
    """Private megabytes of each worker, well into its task."""
    process = start(folder, words, server)
    while len(list(folder.glob("r/started/*"))) < 2 or len(list(folder.glob("r/journal/*"))) < 2:
        time.sleep(0.05)
    time.sleep(2)
    pids = [int(re.findall(r"\d+", path.read_text())[0]) for path in folder.glob("r/started/*")]
    found = [private_mb(pid) for pid in pids]
    process.kill()
    process.wait()
    return found


def main() -> None:
    print(f"--help                          {timed(show_help):.3f} s")
    print(f"first answer of a sim task      {timed(first_journal_line):.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        found = workers(Path(folder), GRID.format(model="sim/slow") + " --max-concurrent 2 --max-in-flight 2")
        print("worker, simulated model         " + ", ".join(f"{mb:.0f} MB" for mb in found))
    with tempfile.TemporaryDirectory() as folder, OpenAIServer(latency_s=(0.3, 0.4)) as server:
        words = GRID.format(model="openai/gpt-4o-mini").replace("no_op", "few_shot")
        found = workers(Path(folder), words + " --max-concurrent 2 --max-in-flight 8 --no-cache", server)
        print("worker, litellm                 " + ", ".join(f"{mb:.0f} MB" for mb in found))


if __name__ == "__main__":
    main()
