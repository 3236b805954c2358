"""Ctrl-C before a run has begun, whatever is being imported: one line and exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.command import ROOT

GRID = "run_benchmark.py --data sample --demo-datasets gsm8k --optimizers no_op --models sim/standard --yes"
LOOK = "check_results.py --list-runs"


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (GRID, "typer"),  # on the way to the command line
        (GRID, "benchmark_config"),  # on the way to the plan
        (GRID, "multiprocessing.forkserver"),  # before workers can be started
        (LOOK, "typer"),
        (LOOK, "rich.console"),
    ],
)
def test_a_ctrl_c_among_the_imports_is_one_line(words: str, module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", *words.split(), "--checkpoint-dir", str(tmp_path)]
    # to the whole group, as a terminal does it: the processes that were started so far get it too
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **streams) as process:
        assert process.stderr
        for line in process.stderr:  # a line for each import as it ends
            if line.startswith("import time:") and line.rpartition("|")[2].strip() == module:
                os.killpg(process.pid, signal.SIGINT)
                break
        said = [line for line in process.stderr.read().splitlines() if line and not line.startswith("import time:")]
    assert process.returncode == 130
    assert [line for line in said if not line.startswith(("note: ", "run ", "estimate: "))] == ["interrupted"]
