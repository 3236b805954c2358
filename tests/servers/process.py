"""A double as a process of its own, for as long as a test wants it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import until

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def serving(module: str, *arguments: str) -> Iterator[str]:
    """The address of the server that this module runs; it writes it, and a line end, where `--ready-file` says."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "url")
        command = [sys.executable, "-m", module, "--ready-file", str(ready), *arguments]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) as process:
            try:
                until(lambda: process.poll() is not None or (ready.exists() and ready.read_text().endswith("\n")))
                assert process.returncode is None, f"the server did not start; exit code {process.returncode}"
                yield ready.read_text().strip()
            finally:
                process.kill()
