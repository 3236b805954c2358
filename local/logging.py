"""Each task's log: a file in the run, with every step, warning and traceback of its attempts."""

from __future__ import annotations

import logging
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def log_to(path: Path, level: str) -> None:
    """Send everything that this process logs to a file, appended to by one attempt after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("benchmark", "optimizer", "utils"):
        logging.getLogger(name).setLevel(level.upper())
