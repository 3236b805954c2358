"""What the command promises: how it reads what is typed, what it shows, what it writes, how it ends."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import run_benchmark
from benchmark_config import DEFAULTS, MODELS, OPTIMIZERS, Settings
from benchmark_task import Launch
from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S

ROOT = Path(run_benchmark.__file__).parent
QUICK = ["--data", "sample", "--test-mode"]
SMALL = [*QUICK, "--demo-datasets", "gsm8k", "--optimizers", "no_op", "--models", "sim/standard"]

SPEND = {"task_calls", "optimizer_calls", "judge_calls", "tokens_in", "tokens_out", "usd", "tokens_estimated"}


def run(folder: Path, *words: str, code: int = 0) -> str:
    """What the command says on stdout, as a process of its own."""
    argv = [sys.executable, str(ROOT / "run_benchmark.py"), *words, "--checkpoint-dir", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def submissions(folder: Path, run_id: str) -> list[dict[str, Any]]:
    found = (folder / run_id / "submissions").glob("*.json")
    return [json.loads(path.read_text()) for path in sorted(found)]


Planned = Callable[..., list[str]]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Planned:
    """The task ids that a command would run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("local.venue.warm_up", lambda models: None)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    launches: list[Launch] = []

    def note(_venue: object, launch: Launch, *_: object, **__: object) -> int:
        launches.append(launch)
        return 0

    monkeypatch.setattr("local.venue.LocalVenue.dispatch", note)

    def plan(*words: str) -> list[str]:
        code = run_benchmark.cli(list(words))
        assert code == 0, capsys.readouterr().err
        return [task.task_id for task in launches[-1].plan.tasks]

    return plan


# --------------------------------------------------------------------------- what is typed


def test_spaces_commas_and_repeated_options_say_the_same(planned: Planned) -> None:
    rest = [*QUICK, "--models", "sim/standard", "--seeds"]
    spaces = planned("--demo-datasets", "gsm8k", "ai2_arc", "--optimizers", "no_op", "few_shot", *rest, "1", "2")
    commas = planned("--demo-datasets", "gsm8k,ai2_arc", "--optimizers=no_op,few_shot", *rest, "1,2")
    first = ["--demo-datasets", "gsm8k", "--optimizers", "no_op"]
    again = ["--demo-datasets", "ai2_arc", "--optimizers", "few_shot"]
    repeated = planned(*first, *rest, "1", *again, "--seeds", "2")

    assert len(spaces) == 8
    assert spaces == commas == repeated


def test_one_seed_is_a_list_of_one(planned: Planned) -> None:
    assert planned(*SMALL, "--seed", "7") == planned(*SMALL, "--seeds", "7")
    assert planned(*SMALL) == planned(*SMALL, "--seed", "42")
    assert planned(*SMALL, "--seeds", "7", "7", "8") == planned(*SMALL, "--seeds", "7", "8")
    assert len(planned(*SMALL, "--seeds", "-1", "0")) == 2


def test_a_variant_is_a_cell_of_its_own(planned: Planned) -> None:
    base = [*QUICK, "--demo-datasets", "gsm8k", "--models", "sim/standard"]
    both = planned(*base, "--optimizers", "few_shot:max_trials=5,surrogate=random", "few_shot")
    listed = planned(*base, "--optimizers", "few_shot:max_trials=5,surrogate=random,few_shot")
    turned = planned(*base, "--optimizers", "few_shot:surrogate=random,max_trials=5", "few_shot")

    assert len(set(both)) == 2
    assert both == listed == turned


def test_a_manifest_says_what_options_say_and_options_win(planned: Planned, tmp_path: Path) -> None:
    words = [*QUICK, "--demo-datasets", "gsm8k", "--optimizers", "no_op", "few_shot:max_trials=5"]
    typed = planned(
        *words, "--models", "sim/standard", "--seeds", "1", "2", "--model-params", "theta=-2", "--budget", "40"
    )
    manifest = {
        "data": "sample",
        "test_mode": True,
        "demo_datasets": ["gsm8k"],
        "optimizers": ["no_op", "few_shot:max_trials=5"],
        "models": ["sim/standard"],
        "seeds": [1, 2],
        "model_params": {"theta": -2},
        "budget": 40,
    }
    (tmp_path / "grid.json").write_text(json.dumps(manifest))
    assert planned("--config", "grid.json") == typed

    (tmp_path / "grid.yaml").write_text(json.dumps({**manifest, "seeds": [5], "budget": 30, "prompt_file": "none.txt"}))
    won = ["--seeds", "1", "2", "--budget", "40"]
    assert planned("--config", "grid.yaml", *won, "--prompt", "Solve it.") == planned(*words, *won, "--models",
        "sim/standard", "--model-params", "theta=-2", "--prompt", "Solve it.")  # fmt: skip


def test_the_defaults_that_help_states_are_those_that_hold() -> None:
    stated = {}
    for param in typer.main.get_command(run_benchmark.app).params:
        found = re.search(r"Default: (\S+?),? ?(?:in test mode (\d+))?$", getattr(param, "help", None) or "")
        if found:
            stated[param.name] = found.groups()
    assert int(stated["seed"][0]) == Settings.seeds[0]
    assert tuple(map(int, stated["budget"])) == (DEFAULTS.task_calls, DEFAULTS.test_mode_task_calls)
    for name in ("max_concurrent", "max_in_flight", "task_timeout", "call_timeout"):
        assert float(stated[name][0]) == float(getattr(Settings, name))
    for name in ("data", "checkpoint_dir", "log_level"):
        assert stated[name][0] == getattr(Settings, name)


@pytest.mark.parametrize("script", ["run_benchmark", "check_results"])
def test_help_imports_nothing_heavy(script: str) -> None:
    code = f"import sys, {script}\n{script}.cli(['--help'])\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "--checkpoint-dir" in done.stdout
    assert not loaded & {
        "litellm",
        "datasets",
        "numpy",
        "pandas",
        "optuna",
        "opik",
        "yaml",
        "benchmark_config",
        "local",
    }


# --------------------------------------------------------------------------- before it runs


def test_a_dry_run_shows_the_price_and_writes_nothing(tmp_path: Path) -> None:
    said = run(tmp_path, *SMALL, "--seeds", "1", "2", "--dry-run")
    assert "2 tasks to do" in said
    assert re.search(
        r"about 30 task calls \(at most 60\), [\d,]+ tokens, sim\$\S+ \(sim\$\S+ to sim\$\S+\), takes about \S+s", said
    )

    one = json.loads(run(tmp_path, *SMALL, "--dry-run", "--json"))
    figures = {"tasks", "task_calls", "optimizer_calls", "judge_calls", "tokens", "usd", "usd_simulated", "seconds"}
    assert set(one["estimate"]) == figures | {"by_dataset", "by_optimizer", "by_model"}
    assert set(one["estimate"]["by_model"]["sim/standard"]) == figures
    assert one["estimate"]["usd"] == {"low": 0, "likely": 0, "high": 0}  # play money is no money
    assert one["estimate"]["usd_simulated"]["likely"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_the_price_of_a_real_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("local.venue.warm_up", lambda models: None)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    grid = [*QUICK, "--demo-datasets", "gsm8k", "--optimizers", "no_op", "--dry-run", "--json", "--models"]

    assert run_benchmark.cli([*grid, "openai/gpt-4o-mini"]) == 0
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert 0 < estimate["usd"]["low"] < estimate["usd"]["likely"] < estimate["usd"]["high"]
    assert estimate["usd_simulated"]["high"] == 0

    assert run_benchmark.cli([*grid, "openai/my-own-model"]) == 0
    assert json.loads(capsys.readouterr().out)["estimate"]["usd"] is None

    monkeypatch.delenv("OPENAI_API_KEY")
    assert run_benchmark.cli([*grid, "openai/gpt-4o-mini"]) == 0, "a dry run needs no key"
    said = capsys.readouterr()
    assert json.loads(said.out)["estimate"] == estimate
    assert "needs OPENAI_API_KEY in the environment, before it can run" in said.err

    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    assert run_benchmark.cli([*grid, "openai/gpt-4o-mini", "--modal"]) == 0, "nor a token of Modal's"
    assert json.loads(capsys.readouterr().out)["estimate"] == estimate
    for name in set(MODELS.values()):
        monkeypatch.delenv(name, raising=False)
    assert run_benchmark.cli(grid[:-1]) == 0, "nor a model: then all of the table are estimated"
    assert {*json.loads(capsys.readouterr().out)["estimate"]["by_model"]} == {*MODELS}


def test_a_dry_run_with_a_probe_makes_the_first_calls_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("local.venue.warm_up", lambda models: None)
    grid = [*QUICK, "--demo-datasets", "gsm8k", "--optimizers", "no_op", "--models", "openai/gpt-4o-mini"]
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        words = [*grid, "--dry-run", "--probe", "--json", "--checkpoint-dir", str(tmp_path)]
        assert run_benchmark.cli(words) == 0
        (seen,) = json.loads(capsys.readouterr().out)["preflight"]
        assert (seen["model"], seen["answered"]) == ("openai/gpt-4o-mini", server.stats()["answered"])
    assert list(tmp_path.iterdir()) == []


def test_all_of_an_axis_is_asked_about_first(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = [*QUICK, "--demo-datasets", "gsm8k", "--models", "sim/standard"]
    assert len(planned(*grid, "--yes")) == len(OPTIMIZERS)

    terminal = io.StringIO("y\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert len(planned(*grid)) == len(OPTIMIZERS)
    assert f"All optimizers will run, {len(OPTIMIZERS)} tasks. Go on? [y/N] " in capsys.readouterr().out

    terminal = io.StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert run_benchmark.cli(grid) == 2
    assert "nothing was started" in capsys.readouterr().err


# --------------------------------------------------------------------------- what it writes


def test_json_is_the_checkpoint_with_every_key(tmp_path: Path) -> None:
    words = ["--optimizers", "no_op", "few_shot:max_trials=3", "--run-id", "a", "--json"]
    said = run(tmp_path, *QUICK, "--demo-datasets", "gsm8k", "--models", "sim/standard", *words)
    overview = json.loads(said)
    assert overview == json.loads((tmp_path / "a" / "checkpoint.json").read_text())

    assert {"run_id", "status", "simulated", "versions", "tasks"} <= set(overview)
    assert (overview["run_id"], overview["status"], overview["simulated"]) == ("a", "completed", True)
    for task in overview["tasks"]:
        identity = {"task_id", "dataset", "optimizer", "optimizer_params", "model", "seed"}
        assert identity | {"status", "stop_reason", "attempts", "initial", "final", "spent", "seconds", "error"} <= set(
            task
        )
        for standing in (task["initial"], task["final"]):
            assert set(standing["scores"]) == {"validation", "test"}
            for score in standing["scores"].values():
                assert set(score) == {"mean", "low", "high", "n", "failed"}
                assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
                assert score["n"] == 5
        assert set(task["spent"]) == {"logical", "billed"}
        assert all(set(spend) == SPEND for spend in task["spent"].values())
    assert overview["tasks"][1]["optimizer_params"] == {"max_trials": 3}


def test_a_finished_run_asked_for_again_does_nothing_but_show_its_table(tmp_path: Path) -> None:
    first = run(tmp_path, *SMALL, "--run-id", "a")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run(tmp_path, *SMALL, "--run-id", "a")

    assert "nothing to do" in again
    assert first[first.index("run a: completed") :] == again[again.index("run a: completed") :]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    assert len(submissions(tmp_path, "a")) == 1


def test_longer_lists_extend_a_run_and_reuse_what_is_there(tmp_path: Path) -> None:
    run(tmp_path, *SMALL, "--run-id", "a")
    results = {path: path.read_bytes() for path in (tmp_path / "a" / "results").iterdir()}
    words = [*QUICK, "--demo-datasets", "gsm8k", "--models", "sim/standard", "--optimizers", "no_op", "few_shot"]
    said = run(tmp_path, *words, "--seeds", "42", "1", "--run-id", "a")

    assert "3 tasks to do, 1 are done and reused" in said
    kinds = [(item["kind"], len(item["task_ids"])) for item in submissions(tmp_path, "a")]
    assert kinds == [("new", 1), ("extend", 3)]
    assert all(path.read_bytes() == content for path, content in results.items())
    overview = json.loads((tmp_path / "a" / "checkpoint.json").read_text())
    assert [task["status"] for task in overview["tasks"]] == ["completed"] * 4


def test_a_failure_is_exit_code_1_and_a_retry_runs_the_failed_tasks_alone(tmp_path: Path) -> None:
    datasets, models = ["gsm8k", "ragbench_sentence_relevance"], ["sim/refuses", "sim/standard"]
    grid = [*QUICK, "--demo-datasets", *datasets, "--optimizers", "no_op", "--models", *models]
    said = run(tmp_path, *grid, "--model-params", "content_filter=0.4", "--run-id", "a", code=1)
    tasks = json.loads((tmp_path / "a" / "checkpoint.json").read_text())["tasks"]
    failed = [task for task in tasks if task["error"]]
    assert 0 < len(failed) < len(tasks)
    assert {task["error"]["class"] for task in failed} == {"content_filter"}
    assert all(task["final"] is None and task["spent"] for task in failed)
    assert "content_filter: " in said
    assert f"python run_benchmark.py --retry-failed-run-id a --checkpoint-dir {tmp_path}" in said

    run(tmp_path, "--retry-failed-run-id", "a", code=1)  # what the model refuses it refuses again
    latest = submissions(tmp_path, "a")[-1]
    assert latest["kind"] == "retry"
    assert latest["task_ids"] == [task["task_id"] for task in failed]


def test_output_that_is_piped_is_a_plain_line_a_change(tmp_path: Path) -> None:
    said = run(tmp_path, *SMALL, "--run-id", "a")
    assert "\x1b" not in said
    changes = [line for line in said.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert [line.split()[1] for line in changes] == ["started", "completed"]
    assert re.search(r"\[1/1\] test 0\.\d{3} to 0\.\d{3}, sim\$0\.\d{4}, \d+\.\ds$", changes[1])
    assert "simulated: " in said


# --------------------------------------------------------------------------- the estimate holds


@pytest.mark.parametrize(
    "words",
    [
        [*QUICK, "--demo-datasets", "gsm8k", "cnn_dailymail"],
        ["--data", "sample", "--demo-datasets", "cnn_dailymail", "--budget", "200"],
        [*QUICK, "--demo-datasets", "medhallu", "--metric", "llm_judge"],
    ],
    ids=["test mode", "full", "judged"],
)
def test_the_estimates_most_is_never_exceeded(tmp_path: Path, words: list[str]) -> None:
    grid = [*words, "--models", "sim/standard", "--optimizers", *OPTIMIZERS, "--run-id", "a", "--json"]
    estimate = json.loads(run(tmp_path, *grid, "--dry-run"))["estimate"]
    overview = json.loads(run(tmp_path, *grid))

    spends = [task[part]["logical"] for task in overview["tasks"] for part in ("spent", "scoring")]
    used = {key: sum(spend[key] for spend in spends) for key in SPEND}
    used["tokens"] = used["tokens_in"] + used["tokens_out"]
    for key in ("task_calls", "optimizer_calls", "judge_calls", "tokens"):
        assert estimate[key]["low"] <= used[key] <= estimate[key]["high"], key
    assert estimate["usd_simulated"]["low"] <= used["usd"] <= estimate["usd_simulated"]["high"]


def test_a_resumed_run_keeps_its_own_limits(tmp_path: Path) -> None:
    grid = [
        *QUICK,
        "--demo-datasets",
        "gsm8k",
        "--optimizers",
        "no_op",
        "--models",
        "sim/standard",
        "--seeds",
        "1",
        "2",
    ]
    said = run(tmp_path, *grid, "--run-id", "a", "--run-max-cost", "0.0001", code=3)
    assert "--resume-run-id a --run-max-cost USD" in said
    assert "limit of $0.0001" in run(tmp_path, "--resume-run-id", "a", code=3)
    assert "2 of 2 tasks completed" in run(tmp_path, "--resume-run-id", "a", "--run-max-cost", "1")
