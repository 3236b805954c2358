"""checkpoint.json: at most once a second, at most a tenth of the time, and always at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from local.checkpoint import LEAST_PAUSE_S, SHARE, Checkpoint
from tests.utils.report.runs import done, nan_result, spec, written
from utils.archive import Attempt
from utils.report.overview import Overview

A, B = spec(1), spec(2)


class Bench:
    """A checkpoint on a clock that goes on by hand; each rendering takes `cost_s`."""

    def __init__(self, root: Path, cost_s: float = 0.0) -> None:
        self.now = 1000.0
        self.archive, plan = written(root, done(A), tasks=(A, B))
        self.path = root / "r" / "checkpoint.json"
        self.writes = 0
        overview = Overview(self.archive, plan)
        render = overview.render

        def slow(**more: Any) -> dict[str, Any]:
            self.now += cost_s
            self.writes += 1
            return render(**more)

        overview.render = slow  # type: ignore[method-assign]
        self.checkpoint = Checkpoint(self.archive, overview, lambda: self.now)

    def run(self, seconds: float, tick_s: float = 0.1) -> None:
        end = self.now + seconds
        while self.now < end:
            self.checkpoint.write_if_due()
            self.now += tick_s


def test_it_is_written_at_once_and_then_once_a_second(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.checkpoint.write_if_due()
    assert bench.path.exists()
    bench.run(10)
    assert 9 <= bench.writes <= 10 / LEAST_PAUSE_S + 1


@pytest.mark.parametrize("cost_s", [0.5, 3.0])
def test_writing_takes_no_more_than_its_share_of_the_time(tmp_path: Path, cost_s: float) -> None:
    bench = Bench(tmp_path, cost_s)
    bench.run(300)
    assert bench.writes >= 2
    assert bench.writes * cost_s <= SHARE * 300 + cost_s


def test_the_end_is_written_whatever_the_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.checkpoint.write_if_due()
    assert json.loads(bench.path.read_text())["status"] == "running"
    assert bench.checkpoint.write(stopped=True)["status"] == "interrupted"
    assert json.loads(bench.path.read_text())["status"] == "interrupted"


def test_it_is_valid_json_and_says_what_is_in_the_archive(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.archive.save_result(Attempt(B.task_id, 1, "001"), nan_result(B))
    returned = bench.checkpoint.write(stopped=True)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    content = json.loads(bench.path.read_bytes(), parse_constant=refuse)
    assert content == returned
    assert [task["status"] for task in content["tasks"]] == ["completed", "completed"]


def test_it_is_never_read_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before = bench.checkpoint.write(stopped=True)
    bench.path.write_text("{torn")
    assert bench.checkpoint.write(stopped=True) == before
