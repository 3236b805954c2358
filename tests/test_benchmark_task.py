"""What an attempt connects a task to, and what comes of it: a result that says what it is worth, or a failure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from benchmark_config import DATASETS, Settings
from benchmark_task import (
    Place,
    Work,
    _door,
    attempt,
    build_optimizer,
    check,
    check_limits,
    expand,
    load_work,
    run_task,
)
from optimizers.base import Extent, Optimizer
from optimizers.editor import Editor
from optimizers.problem import Problem
from tests.local.command import MODEL
from tests.models import Script, Scripted
from tests.servers.openai_server import OpenAIServer
from utils.archive import Attempt, Kind, RunArchive, local_archive
from utils.dataset_specs.base import DatasetSpec, Sizes
from utils.door import Door
from utils.errors import CallError, ErrorKind, UsageError
from utils.journal import Entry, Journal, read_line
from utils.ledger import Ledger
from utils.llm.base import LLM
from utils.metrics.exact_match import ExactMatch
from utils.metrics.semantic_similarity import SemanticSimilarity
from utils.prompt import Prompt
from utils.records import (
    Budget,
    Example,
    Forecast,
    Request,
    Role,
    RunPlan,
    Splits,
    Status,
    StopReason,
    TaskResult,
    TaskSpec,
)
from utils.serialization import decode, encode


@pytest.mark.parametrize(
    ("model", "params", "is_shared"),
    [
        ("openai/gpt-4o-mini", {}, True),
        ("openai/o3-mini", {}, False),
        ("anthropic/claude-sonnet-4-5", {"thinking_budget": 2000}, False),
        ("sim/standard", {}, False),
    ],
)
def test_only_answers_that_are_really_asked_for_at_temperature_0_are_shared(
    model: str, params: dict[str, int], is_shared: bool, tmp_path: Path
) -> None:
    shared = []

    def wrap(connected: LLM, task_id: str) -> LLM:
        shared.append(connected.name)
        return connected

    spec = TaskSpec("gsm8k", "no_op", model, 1, model_params=params, data="sample", test_mode=True)
    place = Place(local_archive(tmp_path, "r"), Attempt(spec.task_id, 1, "001"), wrap=wrap)
    _door(spec, load_work(spec), place, place.archive.journal(place.attempt)).close()
    assert bool(shared) is is_shared


def tried(archive: RunArchive, spec: TaskSpec, number: int, earlier: tuple[Attempt, ...] = ()) -> TaskResult:
    """The n-th attempt of a task; those after the first are retries."""
    place = Place(archive, Attempt(spec.task_id, number, "001"), earlier, retried_at=number if earlier else 0)
    result = attempt(spec, place)
    assert result is not None
    return result


def run_of(folder: Path, spec: TaskSpec) -> RunArchive:
    archive = local_archive(folder, "r")
    archive.save_plan(RunPlan("r", "2026-01-02T03:04:05+00:00", (spec,)))
    archive.submit(Kind.NEW, (spec,), "now")
    return archive


def asked(archive: RunArchive, at: Attempt, *roles: Role) -> set[tuple[str, int]]:
    """The calls that an attempt really made."""
    entries = [entry for entry in map(read_line, archive.read_journal(at).split("\n")) if isinstance(entry, Entry)]
    return {(entry.key, entry.occurrence) for entry in entries if entry.role in roles}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """The provider of `MODEL` in this process."""
    with OpenAIServer() as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield provider


def test_a_retry_of_a_task_that_got_no_edit_asks_for_other_edits(tmp_path: Path, server: OpenAIServer) -> None:
    spec = TaskSpec("gsm8k", "hill_climb", MODEL, 1, data="sample", test_mode=True, budget=Budget(200))
    archive = run_of(tmp_path, spec)
    first, second = (Attempt(spec.task_id, number, "001") for number in (1, 2))

    server.settings.answer = lambda body: "I would rather not."  # to examples and to the optimizer
    failed = tried(archive, spec, 1)
    assert (failed.status, failed.stop_reason) == (Status.FAILED, StopReason.OPTIMIZER_FAILED)
    assert failed.error
    assert failed.error.kind is ErrorKind.MALFORMED
    assert "the optimizer model gave no edit that could be tried, 12 were asked" in failed.error.message

    server.settings.answer = lambda body: (
        json.dumps({"system": f"Think {server.app.counter} times."}) if "response_format" in body else "no"
    )
    completed = tried(archive, spec, 2, (first,))
    assert completed.status is Status.COMPLETED
    assert not [sentence for sentence in completed.warnings if "edits failed" in sentence]
    assert not asked(archive, first, *Role) & asked(archive, second, *Role), "what was answered is not asked again"
    paid = completed.spent.billed + completed.scoring.billed
    edits = [asked(archive, each, Role.OPTIMIZER) for each in (first, second)]
    assert all(edits)
    assert paid.optimizer_calls == sum(map(len, edits))


@dataclass(frozen=True)
class Louder(Optimizer):
    """One rewrite, which the model takes well."""

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        problem.score_all([problem.seed, replace(problem.seed, system="LOUD")])
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        return Forecast((0, 0, 0))


def test_baseline_test_and_gain_are_of_the_same_rows_and_the_others_are_named() -> None:
    spec = TaskSpec("gsm8k", "no_op", "scripted", 1, data="sample")
    work: Work = load_work(spec)
    rows = work.splits.test
    targets = {example.id: example.target for example in (*work.splits.validation, *rows)}
    refused = {"quiet": rows[0].id, "loud": rows[1].id}

    def answer(request: Request, count: int) -> str | CallError:
        voice = "loud" if request.messages[0].content == "LOUD" else "quiet"
        if request.item == refused[voice]:
            return CallError(ErrorKind.CONTENT_FILTER, "declined")
        is_right = voice == "loud" or request.item == rows[1].id  # what only the seed answers, it answers right
        return f"#### {targets[request.item]}" if is_right else "no idea"

    with closing(Door({Role.TASK: Scripted(answer)}, Journal(lambda line: None), Ledger(spec.budget))) as door:
        result = run_task(spec, work, Louder(), door)
    assert result.initial
    assert result.final
    assert result.gain
    before, after = result.initial.scores["test"], result.final.scores["test"]
    assert (before.n, before.failed) == (after.n, after.failed) == (len(rows) - 2, 2)
    assert (before.mean, after.mean, result.gain.mean) == (0.0, 1.0, 1.0)
    said = f"2 of {len(rows)} test rows not answered for both prompts, in no mean: {rows[0].id}, {rows[1].id}"
    assert said in result.warnings


# --------------------------------------------------------------------------- answers that are none


def of_own_rows(folder: Path, optimizer: str = "no_op") -> TaskSpec:
    """A task on 60 rows whose target is `four`."""
    table = folder / "own.csv"
    table.write_text("user_input,ground_truth_output\n" + "".join(f"question {i},four\n" for i in range(60)))
    return TaskSpec("csv_own", optimizer, MODEL, 1, dataset_csv=str(table), budget=Budget(400))


@pytest.mark.parametrize(("fault", "what"), [("length", "cut by max_tokens"), ("empty", "empty")])
def test_answers_that_are_mostly_cut_or_empty_are_no_zero_but_a_failure(
    tmp_path: Path, server: OpenAIServer, fault: str, what: str
) -> None:
    spec = of_own_rows(tmp_path)
    server.settings.answer, server.settings.faults = "const:four", {fault: 0.9}
    result = tried(run_of(tmp_path, spec), spec, 1)
    assert result.error
    assert result.error.kind is ErrorKind.MALFORMED
    assert what in result.error.message
    assert "raise max_tokens in --model-params" in result.error.message


def test_a_share_of_cut_and_empty_answers_is_kept_and_told(tmp_path: Path, server: OpenAIServer) -> None:
    spec = of_own_rows(tmp_path)
    server.settings.answer, server.settings.faults = "const:four", {"length": 0.15, "empty": 0.15}
    result = tried(run_of(tmp_path, spec), spec, 1)
    assert result.final
    kept = {name for split in ("validation", "test") for name in result.final.flaws[split]}
    assert kept == {"cut", "empty"}
    cut, empty = result.warnings
    assert re.fullmatch(r"answers cut by max_tokens: \d+ % of \d+ \(seed prompt on \w+; raise max_tokens .*\)", cut)
    assert re.fullmatch(r"answers empty: \d+ % of \d+ \(seed prompt on \w+; .*\)", empty)


# --------------------------------------------------------------------------- rows without an answer

SEED = Prompt("Answer.", "{question}")
METRICS = (ExactMatch(),)


def rows(split: str, count: int) -> tuple[Example, ...]:
    return tuple(Example(f"{split}{i}", {"question": f"{split} {i}?"}, "yes") for i in range(count))


def searched(answer: Script, size: int) -> TaskResult:
    """What `hill_climb` makes of a task with so many rows a split."""
    dataset = DatasetSpec("toy", "", 1, "", (), {}, Sizes(size, size, size), SEED, METRICS, lambda row: row)
    splits = Splits(rows("train", size), rows("val", size), rows("test", size), "x")
    spec = TaskSpec("toy", "hill_climb", "scripted", 1, budget=Budget(60 * size))
    model = Scripted(answer)
    with closing(Door(dict.fromkeys(Role, model), Journal(lambda line: None), Ledger(spec.budget))) as door:
        return run_task(spec, Work(dataset, splits, SEED, METRICS), build_optimizer(spec), door)


def better(request: Request, count: int) -> str:
    """Each wording is new; those are right on most rows that have been edited, the seed on few."""
    if request.schema is not None:
        return json.dumps({"system": f"Think {count} times."})
    share = 0.8 if "Think" in request.messages[0].content else 0.3
    return "yes" if Random(request.item).random() < share else "no"


def test_rows_that_are_always_refused_end_no_task_and_are_named_even_of_five() -> None:
    refused = {"train0", "val1", "test2"}

    def answer(request: Request, count: int) -> str | CallError:
        return CallError(ErrorKind.CONTENT_FILTER, "declined") if request.item in refused else better(request, count)

    result = searched(answer, 5)
    assert result.initial
    assert result.final
    assert [result.final.scores[split].n for split in ("validation", "test")] == [4, 4]
    named = "rows left out, as the provider always refuses them (content_filter): "
    [said] = [sentence for sentence in result.warnings if sentence.startswith(named)]
    assert set(said.removeprefix(named).split(", ")) == refused


def test_the_limit_on_failed_calls_is_part_of_the_task() -> None:
    spec = TaskSpec("gsm8k", "no_op", "sim/standard", 1)
    assert replace(spec, max_failed_share=0.2).task_id != spec.task_id
    settings = Settings(demo_datasets=("gsm8k",), optimizers=("no_op",), models=("sim/standard",))
    assert {task.max_failed_share for task in expand(replace(settings, max_failed_share=0.3))} == {0.3}
    assert check_limits(settings) is None
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match=r"--max-failed-share is .*; give a share from 0 to 1"):
            check_limits(replace(settings, max_failed_share=share))


def test_a_task_of_a_run_that_knew_no_such_limit_keeps_its_id() -> None:
    spec = TaskSpec("gsm8k", "no_op", "sim/standard", 1)
    old = encode(spec)
    del old["max_failed_share"]
    assert decode(TaskSpec, old) == spec
    assert "max_failed_share" not in spec._identity()


# --------------------------------------------------------------------------- what a task is asked to be


def planned(**given: object) -> TaskSpec:
    (spec,) = expand(Settings(("gsm8k",), ("no_op",), ("sim/standard",), data="sample", **given))  # type: ignore[arg-type]
    return spec


def test_an_output_prompt_stands_after_the_input_of_whatever_seed_prompt_there_is() -> None:
    own = DATASETS["gsm8k"].prompt
    for given, system, user in (
        ({}, own.system, own.user),
        ({"prompt": "Be exact."}, "Be exact.", own.user),
        ({"prompt": "Solve {question}"}, "", "Solve {question}"),
    ):
        seed = load_work(planned(output_prompt="Return only the number.", **given)).seed
        assert (seed.system, seed.user, seed.output) == (system, user, "Return only the number.")
    assert planned(output_prompt="x").task_id != planned().task_id


def test_an_output_prompt_that_names_a_strange_column_is_refused() -> None:
    with pytest.raises(UsageError, match=r"column in placeholder '\{questoin\}'"):
        load_work(planned(output_prompt="Once more: {questoin}"))


def test_shares_are_for_own_rows_alone_and_leave_the_ids_of_other_tasks_as_they_were() -> None:
    with pytest.raises(UsageError, match="--split is for rows of --dataset-csv"):
        planned(split="0.5/0.2/0.3")
    assert "split" not in planned()._identity()


@pytest.mark.parametrize(
    ("judge", "refused"), [("", True), ("openai/gpt-4o", True), ("openai/text-embedding-3-small", False)]
)
def test_a_metric_of_embeddings_needs_a_model_that_gives_them(judge: str, refused: bool) -> None:
    spec = TaskSpec("gsm8k", "no_op", "openai/gpt-4o-mini", 1, data="sample", judge_model=judge)
    work = replace(load_work(spec), metrics=(SemanticSimilarity(),))
    if refused:
        name = judge or "openai/gpt-4o-mini"
        with pytest.raises(UsageError, match=f"semantic_similarity needs an embedding model, which '{name}' is not"):
            check(spec, work)
    else:
        check(spec, work)


def test_an_optimizers_parameters_are_checked_against_the_task() -> None:
    spec = TaskSpec("gsm8k", "three_llm", "sim/standard", 1, {"early_stopping_metric": "bleu"}, data="sample")
    with pytest.raises(UsageError, match="early_stopping_metric of three_llm"):
        check(spec, load_work(spec))


def test_the_generator_falls_back_to_right_and_wrong_where_a_server_refuses_log_probabilities(
    tmp_path: Path, server: OpenAIServer
) -> None:
    spec = replace(of_own_rows(tmp_path, "automated_generator"), budget=Budget(40))
    server.settings.faults = {"no_logprobs": 1.0}
    result = tried(run_of(tmp_path, spec), spec, 1)
    assert result.error is None or result.error.kind is not ErrorKind.BAD_REQUEST
    said = "no log-probabilities came with the answers: cross entropies are of right and wrong"
    assert result.warnings.count(said) == 1
