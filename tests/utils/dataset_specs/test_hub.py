"""`--data hub` with the real `datasets` library, over HTTP, against a hub of our own."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.servers.hub import Hub, Repo, parquet_repo
from utils.dataset_specs import base
from utils.dataset_specs.base import SAMPLE, DatasetSpec, Splits, load_splits
from utils.serialization import decode

ROOT = Path(__file__).parents[3]
NAMES = tuple(sorted(path.stem for path in (ROOT / "utils" / "dataset_specs").glob("*.py")))
NAMES = tuple(name for name in NAMES if (SAMPLE / name).is_dir())


def spec_of(name: str) -> DatasetSpec:
    spec = importlib.import_module(f"utils.dataset_specs.{name}").SPEC
    assert isinstance(spec, DatasetSpec)
    return spec


def sample_rows(name: str, config: str | None, split: str) -> list[dict[str, Any]]:
    folder = SAMPLE / name
    if config and (folder / config).is_dir():
        folder /= config
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").split("\n") if line]


def repo_of(spec: DatasetSpec) -> Repo:
    """The sample's rows as the hub would have them, beside splits and configs that nobody asks for."""
    configs: dict[str | None, dict[str, Sequence[Mapping[str, Any]]]] = {"unasked": {"train": [{"other": 1}]}}
    for source in spec.sources:
        splits = {pool: sample_rows(spec.name, source.config, pool) for pool in set(spec.pools.values())}
        configs[source.config] = {"unasked_split": splits[spec.pools["test"]], **splits}
    revision = spec.sources[0].revision
    return parquet_repo(revision if revision != "main" else "a" * 40, configs)


def load(hub_url: str, home: Path, *names: str, **environment: str) -> dict[str, Splits | str]:
    """What a process of its own makes of `--data hub`: the splits, or the message of the refusal."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("load_from_hub.py")), *names],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            **{"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no progress bars where there is no terminal"
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    return {a["name"]: a["error"] if "error" in a else decode(Splits, a["splits"]) for a in answers}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Splits | str], list[str]]]:
    """All datasets in one process: importing the library costs more than loading nine of them."""
    with Hub({spec.sources[0].hub_id: repo_of(spec) for spec in map(spec_of, NAMES)}) as hub:
        yield load(hub.url, tmp_path_factory.mktemp("hf"), *NAMES), hub.requests


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_the_hub_give_the_same_splits_as_the_same_rows_in_files(name: str, loaded: Any) -> None:
    assert loaded[0][name] == load_splits(spec_of(name), "sample")


def test_only_the_splits_that_are_needed_are_downloaded(loaded: Any) -> None:
    fetched = [request for request in loaded[1] if ".parquet" in request]
    assert fetched
    assert not [request for request in fetched if "unasked" in request]


def test_a_branch_instead_of_a_commit_is_told(loaded: Any) -> None:
    told = {name for name in NAMES if any("not a fixed revision" in note for note in loaded[0][name].notes)}
    assert told == {name for name in NAMES if spec_of(name).sources[0].revision == "main"}


def test_the_commit_that_was_read_is_kept_with_the_rows(loaded: Any) -> None:
    for name in NAMES:
        source = spec_of(name).sources[0]
        assert loaded[0][name].revisions == {source.hub_id: "a" * 40 if source.revision == "main" else source.revision}


def test_a_branch_is_asked_for_by_the_commit_that_was_read_before(tmp_path: Path) -> None:
    spec = spec_of("election_questions")
    with Hub({spec.sources[0].hub_id: repo_of(spec)}) as hub:
        code = (
            "from utils.dataset_specs.base import load_splits; from utils.dataset_specs.election_questions import SPEC;"
            f"load_splits(SPEC, 'hub', revisions={{'{spec.sources[0].hub_id}': '{'a' * 40}'}})"
        )
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert f"GET /api/datasets/{spec.sources[0].hub_id}/revision/{'a' * 40}" in hub.requests
    assert not [request for request in hub.requests if "/main" in request]


def test_splits_are_found_by_file_name_where_the_card_names_none(tmp_path: Path) -> None:
    rows = sample_rows("election_questions", None, "test")
    out = io.StringIO()
    table = csv.DictWriter(out, ["question", "label"])
    table.writeheader()
    table.writerows(rows)
    files = {
        "README.md": b"---\nlanguage:\n- en\n---\n",
        "harmlessness_eval.csv": out.getvalue().encode(),
        "eu_accuracy_questions.csv": b"question\nhow?\n",
    }
    with Hub({"Anthropic/election_questions": Repo("b" * 40, files)}) as hub:
        splits = load(hub.url, tmp_path, "election_questions")["election_questions"]
    assert splits == load_splits(spec_of("election_questions"), "sample")


def test_what_the_hub_lacks_is_one_line_with_a_way_out(tmp_path: Path) -> None:
    arc, medhallu, hotpot = (spec_of(name).sources[0] for name in ("ai2_arc", "medhallu", "hotpot_300"))
    repos = {
        arc.hub_id: parquet_repo(arc.revision, {arc.config: {"train": [{"id": "1"}]}}),
        medhallu.hub_id: parquet_repo(medhallu.revision, {medhallu.config: {"train": [{"question": "1"}]}}),
        hotpot.hub_id: parquet_repo(hotpot.revision, {"fullwiki": {"validation": [{"id": "1"}]}}),
        "openai/gsm8k": Repo("c" * 40, {}),
    }
    with Hub(repos) as hub:
        messages = load(hub.url, tmp_path, "ai2_arc", "medhallu", "hotpot_300", "gsm8k", "cnn_dailymail")
    parts = {
        "ai2_arc": "no split 'test'; known: train",
        "medhallu": "no column 'Question', 'Knowledge', 'Ground Truth', 'Hallucinated Answer'; columns found: question",
        "hotpot_300": "BuilderConfig 'distractor' not found",
        "gsm8k": "e53f048856ff",
        "cnn_dailymail": "abisee/cnn_dailymail",
    }
    assert set(messages) == set(parts)
    for name, part in parts.items():
        message = messages[name]
        assert isinstance(message, str)
        assert message.startswith(f"{name}: ")
        assert part in message
        assert "--data sample" in message
        assert "\n" not in message


def test_a_hub_that_does_not_answer_is_said_after_one_try(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = (
            "import utils.dataset_specs.base as base; from utils.dataset_specs.gsm8k import SPEC; base.REACH_S = 0.5;"
            "base.load_splits(SPEC, 'hub')"
        )
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert base.REACH_S <= 10
    assert "the hub does not answer" in done.stderr
    assert "--data sample" in done.stderr


def test_a_hub_out_of_reach_is_one_line_with_a_way_out(tmp_path: Path) -> None:
    message = load("http://127.0.0.1:9", tmp_path, "gsm8k", HF_HUB_OFFLINE="1")["gsm8k"]
    assert isinstance(message, str)
    assert "cannot load openai/gsm8k" in message
    assert "--data sample" in message
