"""Each task's log: a file in the run, with every step, warning and traceback of its attempts.

What a worker or a library prints goes there as well: the terminal belongs to the live view.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from pathlib import Path

from utils.redaction import RedactingFormatter

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def log_to(path: Path, level: str) -> None:
    """Send everything that this process logs or prints to a file, appended to by one attempt after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("a", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())
    faulthandler.enable(log)  # a crash below Python leaves its stack
    handler = logging.StreamHandler(log)
    handler.setFormatter(RedactingFormatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("benchmark", "optimizer", "utils"):
        logging.getLogger(name).setLevel(level.upper())
