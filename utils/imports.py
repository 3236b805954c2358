"""Imports that take seconds and share much: one thread at a time, or each meets what the other has half done.

A worker's main thread imports litellm while the thread that sends traces imports opik.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder

HEAVY = threading.RLock()  # held while litellm or opik is imported


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """In this thread, and in no other, a package that is not loaded yet cannot be imported."""
    block = _Block(package)
    sys.meta_path.insert(0, block)
    try:
        yield
    finally:
        sys.meta_path.remove(block)


class _Block(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self._package = package
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] == self._package and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is hidden from this import", name=fullname)
