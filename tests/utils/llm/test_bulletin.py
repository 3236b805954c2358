"""What one worker learned of a provider, all others know before their next send."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from utils.llm.bulletin import Bulletin, Notice

ROOT = Path(__file__).parents[3]


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_each_reader_hears_each_notice_of_the_others_once(tmp_path: Path) -> None:
    path, clock = tmp_path / "providers" / "p.jsonl", Clock()
    one, two = Bulletin(path, clock=clock), Bulletin(path, clock=clock)
    assert one.news() == two.news() == []
    one.post(pause_s=10.0)
    two.post(pause_s=3.0)
    assert [notice.pause_s for notice in one.news()] == [3.0]
    assert [notice.pause_s for notice in two.news()] == [10.0]
    assert one.news() == two.news() == []
    assert [notice.pause_s for notice in Bulletin(path).news()] == [10.0, 3.0]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("later_s", "left_s"), [(0.0, 10.0), (4.0, 6.0), (10.0, 0.0), (9e9, 0.0), (-3600.0, 10.0)])
def test_a_pause_ends_on_the_wall_clock_and_is_never_longer_than_it_was(later_s: float, left_s: float) -> None:
    assert Notice(Clock.now, 10.0).left_s(Clock.now + later_s) == left_s


def test_a_notice_that_is_being_written_is_heard_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"at": 1.0, "pau')
    reader = Bulletin(path)
    assert reader.news() == []
    with path.open("a") as file:
        file.write('se_s": 2.0}\n')
    assert reader.news() == [Notice(1.0, 2.0)]


@pytest.mark.parametrize("line", ["", "no JSON", "[]", '{"at": "noon"}', '{"at": 1.0, "pause_s": null}', "\xff"])
def test_what_cannot_be_read_is_left_out(line: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(line.encode("latin-1") + b'\n{"at": 1.0, "pause_s": 2.0, "later": "a field of a newer version"}\n')
    assert Bulletin(path).news() == [Notice(1.0, 2.0)]


def test_a_notice_is_heard_whatever_a_power_cut_left_before_it(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"at": 1.0, "pau')
    Bulletin(path).post(pause_s=2.0)
    assert [notice.pause_s for notice in Bulletin(path).news()] == [2.0]


def test_where_nothing_can_be_written_the_others_are_not_told_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "providers").write_text("a file where a folder is due")
    bulletin = Bulletin(tmp_path / "providers" / "p.jsonl")
    with caplog.at_level(logging.WARNING):
        bulletin.post(pause_s=1.0)
    assert "cannot be told" in caplog.text
    assert bulletin.news() == []


def test_a_pause_is_kept_by_another_process(tmp_path: Path) -> None:
    """The other process is ready to wait a minute, is told of an hour, and says so without a call."""
    path = tmp_path / "p.jsonl"
    Bulletin(path).post(pause_s=3600.0)
    script = f"""
        import asyncio
        from pathlib import Path
        from utils.errors import CallError
        from utils.llm.bulletin import Bulletin
        from utils.llm.resilience import Gate

        async def main():
            async with Gate(1, bulletin=Bulletin(Path({str(path)!r}))).slot(patience_s=60):
                print("sent")

        try:
            asyncio.run(main())
        except CallError as error:
            print(error.kind, "asks to wait" in error.message)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("transient True\n", "")
