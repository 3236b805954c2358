"""Bad input is refused before anything is spent: exit code 2, one line with the thing, the value and the way out."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import check_results
import run_benchmark
from tests.waiting import PATIENCE_S
from utils.disk import DISK
from utils.llm.resilience import Resilient

ROOT = Path(run_benchmark.__file__).parent
GOOD = {
    "--data": ["sample"],
    "--demo-datasets": ["gsm8k"],
    "--optimizers": ["no_op"],
    "--models": ["sim/standard"],
    "--test-mode": [],
    "--checkpoint-dir": ["runs"],
}


def command(*changed: str, without: tuple[str, ...] = ()) -> list[str]:
    """A good command with these words in place of its own; an option among them replaces the same option."""
    kept = {name: values for name, values in GOOD.items() if name not in changed and name not in without}
    return [word for name, values in kept.items() for word in (name, *values)] + list(changed)


Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("local.venue.warm_up", lambda models: None)  # no worker is needed to say no
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The one line that a command is refused with, without its `error: `; nothing was written, no model was asked."""

    async def never(*_: object) -> None:
        raise AssertionError("a model was asked")

    monkeypatch.setattr(Resilient, "complete", never)

    def refuse(argv: list[str], cli: Callable[[list[str]], int] = run_benchmark.cli) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert cli(argv) == 2
        assert sorted(tmp_path.rglob("*")) == before
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert not [letter for letter in said.rstrip("\n") if ord(letter) < 32]
        assert max(map(len, said.split())) < 300, "a value is repeated as far as it helps"
        return said.removeprefix("error: ").rstrip("\n")

    return refuse


def a_run(run_id: str, *words: str) -> None:
    """A finished run, made in a process of its own."""
    argv = [sys.executable, str(ROOT / "run_benchmark.py"), *command("--run-id", run_id, *words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        pytest.param(["--demo-datasets", "gsm9k"], ["dataset 'gsm9k'", "did you mean 'gsm8k'"], id="dataset"),
        pytest.param(["--optimizers", "few_shoot"], ["optimizer 'few_shoot'", "mean 'few_shot'"], id="optimizer"),
        pytest.param(
            ["--models", "sim/standart"], ["model 'sim/standart'", "mean 'sim/standard'"], id="simulated model"
        ),
        pytest.param(["--models", "opnai/gpt-4o-mini"], ["'opnai/gpt-4o-mini'", "mean 'openai'"], id="provider"),
        pytest.param(["--models", "gpt-400-maxi"], ["'gpt-400-maxi'", "write provider/model"], id="bare model"),
        pytest.param(["--models", "openai/gpt-4o-mini"], ["needs OPENAI_API_KEY in the environment"], id="key"),
        pytest.param(["--optimizer-model", "sim/strongest"], ["'sim/strongest'", "sim/strong"], id="optimizer model"),
        pytest.param(["--judge-model", "sim/judge"], ["'sim/judge'", "known: "], id="judge model"),
        pytest.param(
            ["--optimizers", "few_shot:max_trails=5"], ["few_shot", "'max_trails'", "mean 'max_trials'"], id="parameter"
        ),
        pytest.param(
            ["--optimizers", "few_shot:max_trials=many"], ["few_shot", "max_trials", '"many"'], id="parameter's type"
        ),
        pytest.param(["--optimizers", "few_shot:max_trials=0"], ["max_trials is 0", "give 1 or more"], id="its range"),
        pytest.param(["--optimizers", "few_shot:max_trials"], ["'max_trials'", "name=value"], id="no value"),
        pytest.param(["--optimizers", "few_shot:surrogate=magic"], ["surrogate", "linear, tpe, random"], id="choice"),
        pytest.param(
            ["--model-params", "thetta=1"], ["sim/standard", "'thetta'", "mean 'theta'"], id="model parameter"
        ),
        pytest.param(["--model-params", "theta=clever"], ["theta", "a number", "'clever'"], id="its value"),
        pytest.param(["--model-params", "theta"], ["--model-params", "'theta'", "name=value"], id="no assignment"),
        pytest.param(["--models"], ["--models has no value"], id="no name at the end"),
        pytest.param(["--models", "--yes"], ["--models has no value"], id="no name before an option"),
        pytest.param(["--run-id", "--yes"], ["--run-id has no value"], id="an option as a run id"),
        pytest.param(["--demo-datasets", ""], ["--demo-datasets has no value"], id="empty list"),
        pytest.param(["--run-id", ""], ["--run-id has no value"], id="empty run id"),
        pytest.param(["--prompt", "  "], ["--prompt has no value"], id="empty prompt"),
        pytest.param(["--run-id="], ["--run-id has no value"], id="nothing behind the equals sign"),
        pytest.param(["--metric", "os:system"], ["'os:system' takes (command)", "(example, answer)"], id="os.system"),
        pytest.param(["--metric", "math:pow"], ["'math:pow' is built into Python"], id="built-in function"),
        pytest.param(["--metric", "x" * 5000], ["unknown metric 'xxx", "known:"], id="a long name"),
        pytest.param(["--optimizers", "few_shot:max_trials=2026-11-21"], ["max_trials", "a date"], id="date"),
        pytest.param(["--optimizers", "few_shot:max_trials=" + "9" * 4400], ["max_trials", "digits"], id="digits"),
        pytest.param(["--optimizers", "few_shot:max_trials=" + "9" * 400], ["max_trials", "too large"], id="huge"),
        pytest.param(["--optimizers", "few_shot:max_trials=.nan"], ["max_trials", "not a finite number"], id="NaN"),
        pytest.param(["--model-params", "theta=" + "[" * 5000], ["theta", "nested more than 20"], id="nesting"),
        pytest.param(["--optimizers", ","], ["--optimizers ','", "names nothing"], id="list of nothing"),
        pytest.param(["--seeds", "1", "two"], ["--seeds 'two'", "whole number"], id="seed"),
        pytest.param(["--seed", "1", "--seeds", "2"], ["--seed and --seeds", "give one"], id="two ways to seed"),
        pytest.param(["--budget", "-3"], ["--budget is -3", "above 0"], id="negative budget"),
        pytest.param(["--budget", "0"], ["--budget is 0", "above 0"], id="zero budget"),
        pytest.param(["--budget", "4"], ["--budget 4", "gsm8k, 5 calls", "at least 5"], id="below one evaluation"),
        pytest.param(["--budget", "many"], ["--budget 'many'", "whole number"], id="budget in words"),
        pytest.param(["--max-cost", "nan"], ["--max-cost 'nan'", "not a number"], id="money"),
        pytest.param(
            ["--max-cost", "0.000001"], ["--max-cost 1e-06", "one evaluation of gsm8k"], id="too little money"
        ),
        pytest.param(["--max-tokens", "10"], ["--max-tokens 10", "one evaluation of gsm8k"], id="too few tokens"),
        pytest.param(["--max-concurrent", "0"], ["--max-concurrent is 0", "above 0"], id="no worker"),
        pytest.param(["--metric", "numeric_mach"], ["metric 'numeric_mach'", "mean 'numeric_match'"], id="metric"),
        pytest.param(["--metric", "no_such.module:f"], ["'no_such.module:f'", "PYTHONPATH"], id="metric module"),
        pytest.param(["--metric", "math:sine"], ["'math:sine'", "sine"], id="metric function"),
        pytest.param(["--prompt", "Solve {riddle}"], ["gsm8k", "'{riddle}'", "known: {question}"], id="placeholder"),
        pytest.param(["--prompt-file", "none.txt"], ["--prompt-file 'none.txt'", "UTF-8 text"], id="prompt file"),
        pytest.param(["--prompt", "a", "--prompt-file", "b"], ["--prompt and --prompt-file"], id="two prompts"),
        pytest.param(["--data", "rows"], ["--data 'rows'", "hub nor sample nor a folder"], id="no such folder"),
        pytest.param(["--dataset-csv", "none.csv"], ["none.csv", "CSV file in UTF-8"], id="no such CSV"),
        pytest.param(["--config", "none.yaml"], ["--config 'none.yaml'", "YAML or JSON"], id="no such manifest"),
        pytest.param(["--log-level", "loud"], ["--log-level 'loud'", "known: debug"], id="log level"),
        pytest.param(["--run-id", "a/b"], ["--run-id 'a/b'", "letters, digits"], id="run id"),
        pytest.param(["--run-id", ".."], ["--run-id '..'", "letters, digits"], id="run id that leaves the folder"),
        pytest.param(["--resume-run-id", "nope"], ["run 'nope'", "--list-runs --checkpoint-dir runs"], id="resume"),
        pytest.param(["--retry-failed-run-id", "nope"], ["run 'nope'", "--list-runs"], id="retry"),
        pytest.param(["--resume-run-id", "a", "--retry-failed-run-id", "b"], ["--resume-run-id and"], id="both"),
        pytest.param(["--frobnicate"], ["--frobnicate", "--help"], id="unknown option"),
        pytest.param(["--yes", "gsm8k"], ["gsm8k", "--help"], id="a stray word"),
    ],
)
def test_refused_with_one_line(refused: Refused, changed: list[str], named: list[str]) -> None:
    line = refused(command(*changed))
    assert [part for part in named if part not in line] == [], line


def test_nothing_named_and_nobody_to_ask(refused: Refused) -> None:
    line = refused(command(without=("--demo-datasets", "--optimizers")))
    assert "All datasets and all optimizers" in line
    assert "--yes" in line


def test_no_model_named_and_no_key(refused: Refused) -> None:
    line = refused(command(without=("--models",)))
    assert "OPENAI_API_KEY" in line
    assert "--models sim/standard" in line


def rows(path: Path, *lines: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_missing_column(refused: Refused, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows(tmp_path / "own" / "gsm8k" / f"{split}.jsonl", *({"question": f"{i}?"} for i in range(30)))
    line = refused(command("--data", "own"))
    assert "'answer'" in line
    assert "columns found: question" in line


def test_a_missing_split(refused: Refused, tmp_path: Path) -> None:
    rows(tmp_path / "own" / "gsm8k" / "train.jsonl", *({"question": f"{i}?", "answer": "#### 1"} for i in range(30)))
    line = refused(command("--data", "own"))
    assert "gsm8k/test.jsonl" in line
    assert "--data sample" in line


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param(
            "user_input,answer\na,b\n", ["'ground_truth_output'", "columns found: user_input, answer"], id="column"
        ),
        pytest.param("user_input,ground_truth_output\na,b,c\n", ["line 2 has 3 cells", '"double quotes"'], id="cells"),
        pytest.param("user_input,ground_truth_output\na,b\n", ["split is empty", "1 rows"], id="too small"),
        pytest.param("", ["own.csv"], id="empty"),
        pytest.param("user_input,ground_truth_output\n\xff\x00,b\n", ["own.csv", "UTF-8"], id="bytes"),
    ],
)
def test_a_bad_csv(refused: Refused, tmp_path: Path, content: str, named: list[str]) -> None:
    (tmp_path / "own.csv").write_bytes(content.encode("latin-1"))
    line = refused(command("--dataset-csv", "own.csv", without=("--demo-datasets",)))
    assert [part for part in named if part not in line] == [], line


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param("models: [sim/standard", ["cannot be read", "expected ',' or ']'"], id="syntax"),
        pytest.param("- sim/standard", ["no mapping", "--config-schema"], id="list"),
        pytest.param("model: [sim/standard]", ["key 'model'", "mean 'models'"], id="unknown key"),
        pytest.param("models: sim/standard", ["models", "expected a list", "--config-schema"], id="type"),
        pytest.param("budget: lots", ["budget", "expected int", '"lots"'], id="number"),
        pytest.param("budget: " + "9" * 4400, ["digits"], id="digits"),
        pytest.param("model_params: {1: 2}", ["model_params", "the key 1 is not a text"], id="integer key"),
        pytest.param("model_params: " + "[" * 100_000, ["nested more than 20"], id="deep nesting"),
        pytest.param("model_params: " + "{a: " * 30, ["nested more than 20"], id="deep mappings"),
        pytest.param("a: &a [x]\nb: [*a, *a]", ["alias '*a'"], id="alias"),
        pytest.param("&a [*a]", ["alias '*a'"], id="a list within itself"),
        pytest.param("prompt: !!binary aGVsbG8=", ["prompt", "bytes"], id="binary"),
        pytest.param("prompt: 2026-11-21", ["prompt", "date", "quote it"], id="date"),
        pytest.param("prompt: " + "x" * 300_000, ["300,008 characters"], id="too long"),
        pytest.param("prompt: !!python/object:os.system x", ["cannot be read"], id="Python object"),
        pytest.param("\x1b[2Jhello: 1", ["cannot be read"], id="control characters"),
    ],
)
def test_a_bad_manifest(refused: Refused, tmp_path: Path, content: str, named: list[str]) -> None:
    (tmp_path / "grid.yaml").write_text(content)
    line = refused(command("--config", "grid.yaml"))
    assert [part for part in ["--config 'grid.yaml'", *named] if part not in line] == [], line


@pytest.mark.parametrize(
    ("params", "named"),
    [
        pytest.param(["messages=[]"], ["'messages' is the harness's to set"], id="messages"),
        pytest.param(["model=openai/gpt-4o"], ["'model' is the harness's to set"], id="model"),
        pytest.param(["stream=true"], ["'stream' is the harness's to set"], id="stream"),
        pytest.param(['extra_headers={"x-tenant": "mine"}'], ["'extra_headers' may hold a key"], id="headers"),
        pytest.param(['extra_body={"auth": {"access_token": "x"}}'], ["'access_token' may hold a key"], id="deep"),
        pytest.param(["user=sk-abcdefgh12345678"], ["user: a value looks like a key"], id="a key as a value"),
        pytest.param(["user=what-the-variable-holds"], ["user: a value looks like a key"], id="a variable's value"),
        pytest.param(["api_base=https://me:hush@host/v1"], ["api_base: a value looks like a key"], id="password"),
        pytest.param(["api_base=https://host/v1?api_key=hush"], ["api_base: a value looks like a key"], id="query"),
    ],
)
def test_what_no_parameter_of_a_model_may_be(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, params: list[str], named: list[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "what-the-variable-holds")
    line = refused(command("--models", "openai/gpt-4o-mini", "--model-params", *params))
    assert [part for part in named if part not in line] == [], line
    assert "hush" not in line
    assert "abcdefgh1234" not in line


def test_a_secret_is_refused_wherever_it_would_reach_the_plan(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("model_params: {extra_headers: {Authorization: Bearer x}}")
    assert "'extra_headers' may hold a key" in refused(command("--config", "grid.yaml"))
    for option in ("--prompt", "--judge-model", "--dataset-csv"):
        assert "a value looks like a key" in refused(command(option, "sk-abcdefgh12345678"))


@pytest.mark.parametrize("option", ["--max-cost", "--run-max-cost"])
def test_a_limit_of_money_for_a_model_of_unknown_price(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    line = refused(command("--models", "openai/my-own-model", option, "5"))
    assert f"{option} cannot be kept" in line
    assert "'openai/my-own-model'" in line
    assert "--max-tokens" in line


def test_a_file_where_the_results_directory_should_be(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in ("file", "file/below"):
        line = refused(command("--checkpoint-dir", place))
        assert f"--checkpoint-dir '{place}'" in line
        assert "choose another" in line


def test_a_results_directory_that_cannot_be_written(refused: Refused) -> None:
    line = refused(command("--checkpoint-dir", "/proc/runs"))
    assert "cannot write to /proc/runs" in line
    assert "choose another --checkpoint-dir" in line


@contextmanager
def held(path: Path) -> Iterator[None]:
    claim = DISK.claim(path, "4711\n")
    try:
        yield
    finally:
        claim.release()


def test_what_a_finished_run_refuses(refused: Refused, tmp_path: Path) -> None:
    a_run("done")
    again = ["--checkpoint-dir", "runs"]

    assert "no failed task" in refused(["--retry-failed-run-id", "done", *again])
    assert "did you mean 'done'?" in refused(["--resume-run-id", "dona", *again])

    line = refused(["--resume-run-id", "done", "--budget", "7", *again])
    assert line.startswith("--budget 7 contradicts the plan of run 'done'")
    line = refused(["--resume-run-id", "done", "--models", "sim/weak", *again])
    assert "--models sim/weak contradicts" in line
    assert "sim/standard" in line
    assert "--max-concurrent is -1" in refused(["--resume-run-id", "done", "--max-concurrent", "-1", *again])

    line = refused(command("--run-id", "done", "--budget", "30"))
    assert "--budget 30 is not what run 'done' was planned with, 60" in line
    assert "another --run-id" in line

    with held(tmp_path / "runs" / "done" / "lock"):
        line = refused(command("--run-id", "done", "--seeds", "1", "2"))
    assert "run 'done' is locked by process 4711" in line
    assert "--watch" in line


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        pytest.param([], ["--list-runs or --run-id"], id="nothing"),
        pytest.param(["--list-runs", "--run-id", "a"], ["--list-runs or --run-id"], id="both"),
        pytest.param(["--run-id", "nope"], ["unknown run 'nope'", "--list-runs"], id="unknown run"),
        pytest.param(["--run-id", "../nope"], ["--run-id '../nope'", "letters"], id="run id"),
        pytest.param(["--run-id"], ["--run-id has no value"], id="no value"),
    ],
)
def test_check_results_refuses_with_one_line(refused: Refused, argv: list[str], named: list[str]) -> None:
    line = refused(argv, check_results.cli)
    assert [part for part in named if part not in line] == [], line


@pytest.mark.parametrize(
    "argv",
    [
        ["run_benchmark.py", *command("--models", "sim/standart")],
        ["run_benchmark.py", "--budget", "-1"],
        ["check_results.py", "--run-id", "nope"],
    ],
)
def test_refused_as_a_command_too(argv: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / argv[0]), *argv[1:]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
