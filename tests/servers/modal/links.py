"""Isolation by links: where containers have no root of their own, a volume is a symlink at its mount path."""

from __future__ import annotations

import os
from pathlib import Path


class Links:
    """The symlinks that this server made; nothing else is ever replaced or removed."""

    def __init__(self) -> None:
        self._made: dict[Path, Path] = {}

    def make(self, path: Path, folder: Path) -> None:
        """Makes the path lead to the folder; FileExistsError if something is there that this server did not make."""
        if self._made.get(path) == folder:
            return
        if path not in self._made and os.path.lexists(path):
            raise FileExistsError(f"{path} exists; without a root of its own a container needs that place for a volume")
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder)
        self._made[path] = folder

    def remove_all(self) -> None:
        for path in self._made:
            path.unlink(missing_ok=True)
        self._made.clear()
