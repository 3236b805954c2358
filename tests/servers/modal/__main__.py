"""The control plane as a process: python -m tests.servers.modal FOLDER [SETTINGS], the fields of Settings as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from tests.servers.modal.plane import serve
from tests.servers.modal.settings import Settings

parser = argparse.ArgumentParser(prog="python -m tests.servers.modal", description=__doc__)
parser.add_argument("folder", type=Path, help="for everything that the server keeps")
parser.add_argument("settings", nargs="?", default="{}", help="such as '{\"max_procs\": 2}'; settings.py has them all")
parser.add_argument("--until-closed", action="store_true", help="end when standard input is closed")
options = parser.parse_args()
asyncio.run(
    serve(options.folder.resolve(), Settings(**json.loads(options.settings)), until_closed=options.until_closed)
)
