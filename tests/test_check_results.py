"""What `check_results.py` shows of runs on disk: lists, tables, every task, JSON, and a run while it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import check_results
from tests.local.command import MODEL, start
from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S, until
from utils.report.tables import cost, results, runs_table, tasks_table

ROOT = Path(check_results.__file__).parent
Shown = pytest.CaptureFixture[str]


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "run_benchmark.py"), "--data", "sample", *words, "--checkpoint-dir", str(folder)]


def check(folder: Path, *words: str) -> int:
    return check_results.cli([*words, "--checkpoint-dir", str(folder)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a completed run and a failed one."""
    folder = tmp_path_factory.mktemp("runs")
    grid = ["--test-mode", "--demo-datasets", "gsm8k", "ragbench_sentence_relevance", "--optimizers", "no_op"]
    variant = "few_shot:max_trials=5,surrogate=random"
    for run_id, more, code in (
        ("good", [variant, "--models", "sim/standard", "--seeds", "1", "2"], 0),
        ("bad", ["--models", "sim/standard", "sim/refuses", "--model-params", "content_filter=1"], 1),
    ):
        done = subprocess.run(
            command(folder, *grid, *more, "--run-id", run_id), capture_output=True, timeout=PATIENCE_S
        )
        assert done.returncode == code
    return folder


def overview_of(runs: Path, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs / run_id / "checkpoint.json").read_text())
    return found


def test_runs_are_listed_oldest_first(runs: Path, capsys: Shown) -> None:
    assert check(runs, "--list-runs") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "sim$" in line]
    assert [(line[0], line[4], line[5]) for line in lines] == [("good", "completed", "8/8"), ("bad", "failed", "0/4")]

    assert check(runs, "--list-runs", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["run_id"], row["status"], row["tasks"]) for row in listed] == [
        ("good", "completed", 8),
        ("bad", "failed", 4),
    ]
    assert [(row["completed"], row["failed"]) for row in listed] == [(8, 0), (0, 4)]
    assert listed[0]["paid"]["usd_simulated"] > 0
    for row in listed:
        tasks = overview_of(runs, row["run_id"])["tasks"]
        assert row["paid"]["usd"] == 0
        assert row["paid"]["usd_simulated"] == pytest.approx(sum(task["paid"]["usd"] for task in tasks))


def test_an_empty_folder_has_no_runs(tmp_path: Path, capsys: Shown) -> None:
    assert check(tmp_path, "--list-runs") == 0
    assert "there is no run yet in" in capsys.readouterr().out


def test_a_fresh_checkout_has_no_runs_yet(tmp_path: Path, capsys: Shown) -> None:
    assert check(tmp_path / "not_made_yet", "--list-runs") == 0
    assert "there is no run yet in" in capsys.readouterr().out
    assert check(tmp_path / "not_made_yet", "--list-runs", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    (tmp_path / "file").touch()
    assert check(tmp_path / "file", "--list-runs") == 2


def test_the_exit_code_says_whether_all_completed(runs: Path, capsys: Shown) -> None:
    assert check(runs, "--run-id", "good") == 0
    assert check(runs, "--run-id", "bad") == 1
    assert check(runs, "--run-id", "good", "--watch") == 0  # nobody works on it: shown once
    assert capsys.readouterr().out.count("run good: completed") == 2


def test_json_is_the_checkpoint(runs: Path, capsys: Shown) -> None:
    for run_id in ("good", "bad"):
        check(runs, "--run-id", run_id, "--json")
        assert json.loads(capsys.readouterr().out) == overview_of(runs, run_id)


def test_seeds_share_a_line_and_every_figure_has_its_interval(runs: Path, capsys: Shown) -> None:
    check(runs, "--run-id", "good")
    said = capsys.readouterr().out
    assert said.count("gsm8k · sim/standard") == 1
    lines = [line for line in said.splitlines() if line.startswith("  few_shot:max_trials=5,surrogate=random")]
    assert len(lines) == 2
    assert all("2/2" in line and "±" in line and "sim$" in line for line in lines)
    assert said.count("unchanged") == 2  # no_op
    assert "no evidence about real models" in said


def test_detailed_shows_every_task_and_what_changed_in_its_prompt(runs: Path, capsys: Shown) -> None:
    check(runs, "--run-id", "good", "--detailed")
    said = capsys.readouterr().out
    tasks = overview_of(runs, "good")["tasks"]
    assert all(task["task_id"] in said for task in tasks)
    assert said.count("  gain ") == len(tasks)
    assert "  + demos" in said
    assert "unchanged" in said

    check(runs, "--run-id", "bad", "--detailed")
    said = capsys.readouterr().out
    assert said.count("content_filter: ") == sum(
        task["error"] is not None for task in overview_of(runs, "bad")["tasks"]
    )


@pytest.mark.parametrize("width", [66, 80, 120, 200])
def test_tables_fit_the_terminal(runs: Path, width: int) -> None:
    for run_id in ("good", "bad"):
        overview = overview_of(runs, run_id)
        overview["tasks"][0]["dataset"] = "a_dataset_with_a_name_of_considerable_length"
        for shown in (results(overview), tasks_table(overview), runs_table([overview])):
            console = Console(width=width, force_terminal=False)
            with console.capture() as capture:
                console.print(shown)
            lines = capture.get().splitlines()
            assert max(map(len, lines)) <= width
    with console.capture() as capture:
        console.print(results(overview_of(runs, "good")))
    assert "…" not in capture.get()
    assert all(part in capture.get() for part in ("surrogate=random", "test (95 %)", "gain (95 %)", "verdict"))


def test_text_from_a_model_is_not_markup(runs: Path) -> None:
    overview = overview_of(runs, "good")
    overview["tasks"][0]["final"]["prompt"]["system"] = "[bold]Answer[/bold] {in} [braces] [/"
    console = Console(width=100)
    with console.capture() as capture:
        console.print(tasks_table(overview))
    assert "[bold]Answer[/bold] {in} [braces] [/" in capture.get()


def test_play_money_and_real_money_are_never_added_up(runs: Path) -> None:
    tasks = overview_of(runs, "good")["tasks"]
    assert cost(tasks).startswith("sim$")
    real = {**tasks[0], "simulated": False}
    both = cost([real, *tasks[1:]])
    assert both.startswith("$")
    assert " and sim$" in both
    unknown = {**real, "paid": {**real["paid"], "usd": None}}
    assert cost([unknown, real]) == "$?"


def test_watching_ends_with_the_run(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        server.gate.hold()
        words = f"--data sample --demo-datasets gsm8k --optimizers no_op --models {MODEL} --test-mode --seeds 1 2"
        running = start(tmp_path, f"{words} --max-concurrent 1 --run-id slow --yes", server)
        until(lambda: server.gate.held)
        watching = [sys.executable, str(ROOT / "check_results.py"), "--run-id", "slow", "--watch"]
        with subprocess.Popen(
            [*watching, "--checkpoint-dir", str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as watched:
            assert watched.stdout
            shown = ""
            while "run slow: running" not in shown:
                shown += watched.stdout.read(1) or pytest.fail(f"it ended: {shown}")
            server.gate.open()
            assert running.wait(PATIENCE_S) == 0
            shown += watched.communicate(timeout=PATIENCE_S)[0]
        assert watched.returncode == 0
        assert "run slow: completed, 2 of 2 tasks completed" in shown
