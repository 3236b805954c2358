"""A worker process beside metrics of a user's own, which may do anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.local.command import ROOT
from tests.waiting import PATIENCE_S

METRIC = """
import os, threading, time


def forgetful(example, answer):
    threading.Thread(target=time.sleep, args=(3600,), name="left-behind").start()
    return 1.0


def talkative(example, answer):
    raise RuntimeError(f"cannot log in with {os.environ['MY_JUDGE_TOKEN']}")
"""


def run(folder: Path, metric: str, run_id: str) -> subprocess.CompletedProcess[str]:
    (folder / "odd_metrics.py").write_text(METRIC)
    words = (
        f"--data sample --demo-datasets gsm8k --optimizers no_op --models sim/standard --test-mode --no-tracing"
        f" --metric odd_metrics:{metric} --run-id {run_id} --checkpoint-dir runs"
    )
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *words.split()]
    environment = {**os.environ, "MY_JUDGE_TOKEN": "hush-hush-hush"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_thread_that_a_metric_leaves_behind_does_not_hold_its_worker(tmp_path: Path) -> None:
    assert run(tmp_path, "forgetful", "kept").returncode == 0
    (log,) = (tmp_path / "runs" / "kept" / "logs").iterdir()
    assert "threads that it left behind are ended: left-behind" in log.read_text()


def test_a_key_in_an_exception_of_a_metric_is_redacted(tmp_path: Path) -> None:
    done = run(tmp_path, "talkative", "told")
    assert done.returncode == 1
    overview = json.loads((tmp_path / "runs" / "told" / "checkpoint.json").read_text())
    assert "cannot log in with ***" in overview["tasks"][0]["error"]["message"]
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]
    assert written == []
    assert "hush-hush" not in done.stdout + done.stderr
