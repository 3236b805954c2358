"""Bytes by key, on disk: files of mounts, blocks of volume files, and arguments and results too large for a message."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import uuid4


class Blobs:
    """A folder with a file for each key; a file appears with its whole content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where the bytes of this key are; KeyError for a key that is no file name."""
        if not key or "/" in key or key.startswith("."):
            raise KeyError(key)
        return self.folder / key

    def put(self, key: str, content: bytes) -> None:
        aside = self.folder / f".{uuid4().hex}"
        aside.write_bytes(content)
        aside.replace(self.path(key))

    def get(self, key: str) -> bytes:
        return self.path(key).read_bytes()

    def has(self, key: str) -> bool:
        return self.path(key).exists()


def file_key(sha256_hex: str) -> str:
    """The key of a file that belongs to a mount or was uploaded whole."""
    return f"file-{sha256_hex}"


def block_key(sha256: bytes) -> str:
    """The key of a block of a volume file."""
    return f"block-{sha256.hex()}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
