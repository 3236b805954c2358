"""`python -m tests.simulation JOB ...`: see `tests/simulation/jobs.py`."""

from __future__ import annotations

import os
import sys

from tests.simulation import machine

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of a set is a part of the schedule
    again = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
    os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})

machine.install()

from tests.simulation.jobs import main  # the product, which must not see the real clock  # noqa: E402

sys.exit(main(sys.argv[1:]))
