"""What a large grid costs on Modal, measured on the double of its control plane: this machine runs the containers too.

    python tests/performance/modal_grid.py [--tasks 10000] [--delay 0.02] [--containers 2]

Every exchange of a command with the control plane takes `--delay` seconds more, as a network would make it. Tasks are
`no_op` on a simulated model in test mode, so what is measured is the harness.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.modal_utils.command import Cloud, cloud, statuses


def timed(name: str, cloud: Cloud, *words: str) -> None:
    before = cloud.plane.state()["volumes"].get("optimizer-benchmarks", {})
    began = time.perf_counter()
    cloud.run(*words, code=None)
    seconds = time.perf_counter() - began
    after = cloud.volume
    reads, listed = (after[key] - before.get(key, 0) for key in ("reads", "listed"))
    print(f"{name:44}{seconds:>9.1f}s{reads:>9,} files read{listed:>9,} names listed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--containers", type=int, default=2)
    asked = parser.parse_args()
    settings = {"volume_mode": "shared", "max_procs": asked.containers + 1, "scaledown_s": 30.0}
    with tempfile.TemporaryDirectory() as folder, cloud(Path(folder), **settings) as deployed:
        slowly = [{"rpc": "*", "delay": asked.delay, "times": 10**9}]
        deployed.plane.faults(slowly)
        seeds = [str(seed) for seed in range(asked.tasks // 2)]
        grid = "--data sample --test-mode --demo-datasets gsm8k ai2_arc --optimizers no_op --models sim/standard --yes"
        limits = f"--run-id large --max-concurrent {asked.containers}"
        look = ("check_results.py", "--modal", "--run-id", "large")
        timed("submission", deployed, "run_benchmark.py", "--modal", *f"{grid} {limits}".split(), "--seeds", *seeds)
        timed("status while it runs", deployed, *look)
        deployed.plane.faults([])  # what the containers do is not what is measured here
        began = time.perf_counter()
        while deployed.open_inputs:
            time.sleep(1)
        print(f"{'the rest of the run, without delay':44}{time.perf_counter() - began:>9.1f}s", flush=True)
        deployed.plane.faults(slowly)
        timed("first status of all results", deployed, *look)
        timed("status again", deployed, *look)
        timed("resume, nothing to do", deployed, "run_benchmark.py", "--modal", "--resume-run-id", "large")
        volume = deployed.volume
        print(statuses(deployed.look("large")))
        print({key: volume[key] for key in ("commits", "conflicting_overwrites")})
        files = [path for path in deployed.plane.volume("optimizer-benchmarks").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files):,} files, {size / 1e6:.1f} MB on the volume, {size / asked.tasks / 1e3:.2f} kB a task")


if __name__ == "__main__":
    main()
