"""A claim lasts as long as its owner."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.disk import DISK

ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from utils.disk import DISK
claim = DISK.claim(Path(sys.argv[1]), "them")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    path = tmp_path / "x"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.communicate()


def test_a_kill_lets_go_of_a_claim(held: tuple[Path, subprocess.Popen[str]]) -> None:
    path, process = held
    assert DISK.is_claimed(path)
    with pytest.raises(BlockingIOError):
        DISK.claim(path, "me", patience=2, pause_s=0.0)
    assert path.read_text() == "them"
    process.kill()
    process.wait()
    assert not DISK.is_claimed(path)
    DISK.claim(path, "me", patience=1).release()
    assert path.read_text() == "me"


def test_a_look_does_not_take_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert not DISK.is_claimed(path)
    assert not path.exists()
    claim = DISK.claim(path, "me", patience=1)
    assert [DISK.is_claimed(path), DISK.is_claimed(path)] == [True, True]
    claim.release()
    assert not DISK.is_claimed(path)
    DISK.claim(path, patience=1).release()
