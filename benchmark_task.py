"""From what was asked for to a plan of tasks, and from a task to its result.

`expand` makes the plan, once. `check` refuses what could not run, before anything is spent. `run_task` is one
optimization with its honest scoring; `attempt` is one try of it by one worker, and the only place where an exception
becomes a failed result.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, Protocol

from benchmark_config import DATASETS, DEFAULTS, OPTIMIZERS, Settings
from optimizers.base import Extent, Optimizer, sample_size, with_text
from optimizers.editor import Editor
from optimizers.problem import Problem, Rules, ask_scores, spans_of
from utils.archive import Appender, Attempt, Kind, RunArchive, TaskState
from utils.bills import Bills
from utils.dataset_specs.base import DatasetSpec, check_prompt, load_splits
from utils.dataset_specs.csv_file import csv_spec
from utils.disk import NO_ROOM
from utils.door import Door, Purse
from utils.errors import CallError, Drained, ErrorKind, NoEdits, Stop, TaskError, UsageError, cut, one_line, unknown
from utils.fingerprint import source_of, sources_of
from utils.journal import Journal
from utils.ledger import Ledger
from utils.llm.base import LLM
from utils.llm.connect import connect, context_tokens, gate_name, takes_temperature
from utils.llm.resilience import Gate, RetryPolicy
from utils.metrics.base import JudgedMetric, Metric
from utils.metrics.custom import FunctionMetric
from utils.metrics.registry import find_metric
from utils.prompt import Prompt
from utils.records import (
    Accounts,
    Budget,
    Evaluation,
    Failure,
    Progress,
    Request,
    Role,
    RunPlan,
    Spend,
    Split,
    Splits,
    Standing,
    Status,
    StopReason,
    TaskResult,
    TaskSpec,
)
from utils.redaction import redact
from utils.report.estimate import CHARACTERS_A_TOKEN, Estimate, Need, prompt_tokens
from utils.report.flaws import Calls, flaws, refuse_cut, refuse_unanswered, warnings_of
from utils.report.statistics import answered_by_all, interval_of, paired_gain, paired_saving
from utils.serialization import content_hash, decode, encode
from utils.tracing.records import Recorder, Recording
from utils.validation import split_commas
from utils.values import read_value

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger("benchmark")

SIMULATED = "sim/"  # what the names of simulated models begin with
VERSIONED = ("litellm", "datasets", "numpy", "optuna")
NOMINAL = Extent(train=50, validation=50)  # rows, where it only matters whether an optimizer asks at all
NAMED_ROWS = 5  # ids that a warning repeats
THINKING = {"low": 1024, "medium": 2048, "high": 4096}  # tokens, of an effort that is asked for by name
DEMO_FRAME = 60  # characters that a template puts around a demo


# --------------------------------------------------------------------------- where a run is done


@dataclass(frozen=True)
class Launch:
    """A run that is ready to go: its plan, what is to be done, and why."""

    archive: RunArchive
    plan: RunPlan
    added: RunPlan | None  # to be written before the first dispatch: the plan itself, or an extension
    kind: Kind
    tasks: tuple[TaskSpec, ...]
    states: Mapping[str, TaskState]
    splits: tuple[tuple[TaskSpec, Splits], ...]  # rows to be kept with the run
    estimate: Estimate
    notes: tuple[str, ...]
    probed: Spend | None = None  # paid for the first calls, before anything was begun


class Probed(Protocol):
    """What the first call to each model of a run gave."""

    @property
    def paid(self) -> Spend:
        """What it cost."""

    def lines(self) -> Iterable[str]:
        """For people."""

    def as_dicts(self) -> list[dict[str, Any]]:
        """For scripts."""


class Venue(Protocol):
    """Where the workers of a run are and its files live: this machine, or Modal. All else is the same for both."""

    @property
    def flags(self) -> str:
        """The options that lead another command to the same place, with a space before each."""

    def archive(self, run_id: str) -> RunArchive:
        """The archive of a run, which may not exist yet."""

    def known_runs(self) -> list[str]:
        """The ids of the runs that are there."""

    def check(self, settings: Settings) -> None:
        """Raises UsageError for settings that cannot be kept here."""

    def check_models(self, names: Sequence[str], params: Mapping[str, Any]) -> None:
        """Raises UsageError for a model that no worker here could ask."""

    def configured_models(self) -> tuple[str, ...]:
        """The rows of MODELS whose keys the workers have. Raises UsageError if there are none."""

    def probe(self, launch: Launch) -> Probed | None:
        """Make a first call to each model; None where none is to be asked. Raises UsageError for a silent one."""

    def warm_up(self, models: Sequence[str]) -> None:
        """Begin what takes time before the first task can start."""

    def unfinished(
        self, archive: RunArchive, tasks: Sequence[TaskSpec], states: Mapping[str, TaskState]
    ) -> tuple[TaskSpec, ...]:
        """The tasks that are not final and that nobody will bring to an end."""

    def dispatch(self, launch: Launch, settings: Settings, console: Console, *, as_json: bool) -> int:
        """Do what is to be done, or have it done, and show what there is to see; the exit code."""

    def cancel(self, open_run: Callable[[], RunArchive], console: Console) -> int:
        """Take back every task of a run that is not final; the exit code."""

    def delete(self, archive: RunArchive, make_sure: Callable[[str], None]) -> None:
        """Remove a run with all its files. Raises UsageError while it is worked on.

        `make_sure` is given the place, in words, before anything is removed; it raises where that is not wanted.
        """


# --------------------------------------------------------------------------- the plan


def expand(settings: Settings) -> tuple[TaskSpec, ...]:
    """The tasks of a grid: dataset x optimizer x model x seed, in that order. Raises UsageError for what is wrong.

    Whether the models can be asked is for a `Venue` to say.
    """
    datasets = _datasets(settings)
    optimizers = [parse_optimizer(text) for text in settings.optimizers or tuple(OPTIMIZERS)]
    models = settings.models
    named = settings.named_models
    if 0 < sum(name.startswith(SIMULATED) for name in named) < len(named):
        raise UsageError(
            f"simulated and real models in one run ({', '.join(named)}): play money and money cannot be added up;"
            " give each its own run"
        )
    if not settings.seeds:
        raise UsageError("--seeds is empty; give at least one number")
    if settings.metric:
        find_metric(settings.metric)
    budget = _budget(settings)
    prompt = _prompt(settings)
    cells = product(datasets, optimizers, models, settings.seeds)
    tasks = [
        TaskSpec(
            dataset=dataset,
            optimizer=optimizer,
            optimizer_params=params,
            optimizer_files=files,
            model=model,
            seed=seed,
            model_params=settings.model_params,
            optimizer_model=settings.optimizer_model,
            judge_model=settings.judge_model,
            data=data_source(settings.data),
            dataset_csv=str(Path(settings.dataset_csv).resolve()) if settings.dataset_csv else "",
            split=settings.split,
            test_mode=settings.test_mode,
            budget=budget,
            prompt=prompt,
            metric=settings.metric,
            max_failed_share=settings.max_failed_share,
        )
        for dataset, (optimizer, params, files), model, seed in cells
    ]
    return tuple({task.task_id: task for task in tasks}.values())  # a cell named twice is one cell


def parse_optimizer(text: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    """The name, the parameters and the files of `NAME:k=v,k=v`; every parameter is checked by name, type and value."""
    name, _, assignments = text.partition(":")
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    params, files = parse_assignments(split_commas(assignments) if assignments else (), f"optimizer {name}")
    optimizer = OPTIMIZERS[name]
    known = set(_defaults(optimizer))
    for key in params:
        if key not in known:
            raise unknown(f"parameter of optimizer {name}:", key, known)
    built = _build(name, params)
    return name, {key: getattr(built, key) for key in params}, files


def parse_assignments(texts: Sequence[str], where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """`k=v` texts as a mapping, and the files that some of the values came from.

    Values are read as YAML scalars or JSON. One that begins with `@` names a file and stands for the text in it: the
    plan holds the text, a table shows the file with a few digits of the text's hash.
    """
    params: dict[str, Any] = {}
    files: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UsageError(f"{where}: {cut(text)!r} is not of the form name=value")
        if value.startswith("@"):
            params[name] = _text_of(value[1:], f"{where}: {name}")
            files[name] = f"@{Path(value[1:]).name}#{content_hash(params[name], 6)}"
        else:
            params[name] = read_value(value, f"{where}: {name}")
    return params, files


def _text_of(path: str, where: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: cannot read the file {path!r}: {error}; give a UTF-8 text after the @") from None
    if not text:
        raise UsageError(f"{where}: the file {path!r} is empty; write the text into it")
    return text


def build_optimizer(spec: TaskSpec) -> Optimizer:
    """The optimizer of a task, with its parameters."""
    return _build(spec.optimizer, spec.optimizer_params)


def check_model(name: str, params: Mapping[str, Any]) -> None:
    """Raises UsageError for a name that neither the simulation nor litellm knows, or where its key is missing."""
    if name.startswith(SIMULATED):
        from utils.llm.simulated import simulated_model

        simulated_model(name, params, ())
    else:
        from utils.llm import litellm_engine

        litellm_engine.check(name, params)


def data_source(text: str) -> str:
    """`hub`, `sample`, or the absolute path of an existing folder."""
    if text in ("hub", "sample"):
        return text
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise UsageError(f"--data {text!r} is neither hub nor sample nor a folder; give one of these")
    return str(path)


def _datasets(settings: Settings) -> tuple[str, ...]:
    for name in settings.demo_datasets:
        if name not in DATASETS:
            raise unknown("dataset", name, DATASETS)
    if settings.dataset_csv:
        return (*settings.demo_datasets, csv_spec(settings.dataset_csv, settings.split).name)
    if settings.split:
        raise UsageError("--split is for rows of --dataset-csv; the datasets have splits of their own")
    return settings.demo_datasets or tuple(DATASETS)


def versions() -> dict[str, str]:
    """What a result may depend on besides this project."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_limits(settings: Settings) -> None:
    """Raises UsageError for a limit that is no positive number."""
    limits = {
        "--budget": settings.budget,
        "--max-tokens": settings.max_tokens,
        "--max-cost": settings.max_cost,
        "--max-seconds": settings.max_seconds,
        "--run-max-cost": settings.run_max_cost,
        "--max-concurrent": settings.max_concurrent,
        "--max-in-flight": settings.max_in_flight,
        "--task-timeout": settings.task_timeout,
        "--call-timeout": settings.call_timeout,
    }
    for option, value in limits.items():
        if value is not None and not value > 0:
            raise UsageError(f"{option} is {value:g}; give a number above 0")
    if not 0 <= settings.max_failed_share <= 1:
        raise UsageError(f"--max-failed-share is {settings.max_failed_share:g}; give a share from 0 to 1")


def _budget(settings: Settings) -> Budget:
    check_limits(settings)
    default = DEFAULTS.test_mode_task_calls if settings.test_mode else DEFAULTS.task_calls
    calls = default if settings.budget is None else settings.budget
    return Budget(calls, None, settings.max_tokens, settings.max_cost, settings.max_seconds)


def _prompt(settings: Settings) -> Prompt | None:
    if settings.prompt and settings.prompt_file:
        raise UsageError("--prompt and --prompt-file are both given; give one")
    text, output = settings.prompt.strip(), settings.output_prompt.strip()
    if settings.prompt_file:
        try:
            text = Path(settings.prompt_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read --prompt-file {settings.prompt_file!r}: {error}; give a UTF-8 text"
            ) from None
        if not text:
            raise UsageError(f"--prompt-file {settings.prompt_file!r} is empty; write the prompt into it")
    return Prompt(system=text, output=output) if text or output else None


def _defaults(optimizer: Optimizer) -> dict[str, Any]:
    return {field.name: getattr(optimizer, field.name) for field in fields(optimizer)}


def _optimizer(name: str) -> Optimizer:
    """A row of the table, which a run's plan may know longer than this program does."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def _build(name: str, params: Mapping[str, Any]) -> Optimizer:
    optimizer = _optimizer(name)
    try:
        # through the codec, so that a value of the wrong type is refused by name
        return decode(type(optimizer), encode({**_defaults(optimizer), **params}))
    except UsageError as error:
        raise UsageError(f"optimizer {name}: {error}") from None


# --------------------------------------------------------------------------- what a task needs


@dataclass(frozen=True)
class Work:
    """What a task works on: its dataset, rows, seed prompt and metrics."""

    dataset: DatasetSpec
    splits: Splits
    seed: Prompt
    metrics: tuple[Metric | JudgedMetric, ...]

    @property
    def extent(self) -> Extent:
        return Extent(len(self.splits.train), len(self.splits.validation))


def load_work(spec: TaskSpec, kept: Splits | None = None, revisions: Mapping[str, str] | None = None) -> Work:
    """The rows, the prompt and the metrics of a task, checked against each other. Raises UsageError.

    `kept` are the rows that the run has already; without them they come from the task's source.
    """
    dataset = _dataset(spec)
    splits = kept or load_splits(dataset, spec.data, test_mode=spec.test_mode, revisions=revisions)
    metrics = (find_metric(spec.metric), *dataset.metrics) if spec.metric else dataset.metrics
    names: dict[str, Metric | JudgedMetric] = {}
    for metric in metrics:
        names.setdefault(metric.name, metric)
    seed = _seed_prompt(spec, dataset)
    check_prompt(seed, splits, f"the prompt for {spec.dataset}")
    return Work(dataset, splits, seed, tuple(names.values()))


def _dataset(spec: TaskSpec) -> DatasetSpec:
    if spec.dataset not in DATASETS and not spec.dataset_csv:
        raise unknown("dataset", spec.dataset, DATASETS)
    return DATASETS[spec.dataset] if spec.dataset in DATASETS else csv_spec(spec.dataset_csv, spec.split)


def _seed_prompt(spec: TaskSpec, dataset: DatasetSpec) -> Prompt:
    """The dataset's prompt with the user's texts in it; a text that names a column is the whole of what goes before."""
    given = spec.prompt or Prompt()
    prompt = with_text(dataset.prompt, given.system) if given.system else dataset.prompt
    return replace(prompt, output=given.output) if given.output else prompt


def judge_kind(metrics: Sequence[Metric | JudgedMetric]) -> Literal["chat", "embedding"] | None:
    """The kind of model that the judged metrics need."""
    kinds = {metric.needs for metric in metrics if isinstance(metric, JudgedMetric)}
    if len(kinds) > 1:
        raise UsageError("one run cannot use an LLM judge and an embedding metric at once; choose one with --metric")
    return kinds.pop() if kinds else None


def check(spec: TaskSpec, work: Work) -> None:
    """Raises UsageError for a task that could not run: a budget below one evaluation, a price that is not known."""
    needed = len(work.splits.validation)
    if spec.budget.task_calls < needed:
        raise UsageError(
            f"--budget {spec.budget.task_calls} is below one evaluation of {spec.dataset}, {needed} calls;"
            f" give at least {needed}"
        )
    build_optimizer(spec).check([metric.name for metric in work.metrics])
    _check_judge(spec, work)
    if spec.budget.usd is not None and (unpriced := unpriced_model(spec, work)):
        raise UsageError(f"--max-cost cannot be kept: the price of {unpriced!r} is not known; use --max-tokens")
    if spec.budget.tokens is not None or spec.budget.usd is not None:
        _check_first_batch(spec, work)


def _check_judge(spec: TaskSpec, work: Work) -> None:
    """Raises UsageError where a metric compares embeddings and the model that is to give them is known to give none."""
    metric = next((metric for metric in work.metrics if isinstance(metric, JudgedMetric)), None)
    model = spec.judge_model or spec.model
    if metric is None or metric.needs != "embedding" or model.startswith(SIMULATED):
        return
    from utils.llm import litellm_engine

    if litellm_engine.mode(model) not in ("", "embedding"):
        raise UsageError(
            f"metric {metric.name} needs an embedding model, which {model!r} is not; name one: --judge-model"
        )


def unpriced_model(spec: TaskSpec, work: Work) -> str:
    """The first model of a task whose price no table has; empty if all are priced."""
    judge = (spec.judge_model or spec.model) if judge_kind(work.metrics) else ""
    models = filter(None, (spec.model, spec.optimizer_model, judge))
    return next((model for model in models if price(model, spec.model_params) is None), "")


def _check_first_batch(spec: TaskSpec, work: Work) -> None:
    """Raises UsageError where tokens or money do not bear the first evaluation, which is reserved whole."""
    model = connect(spec.model, spec.model_params, gates={}, in_flight=1)
    params = {"temperature": 0, **spec.model_params}
    rows = work.splits.validation
    ceilings = [model.ceiling(Request(work.seed.render(row.inputs), params=params)) for row in rows]
    tokens = sum(usage.tokens_in + usage.tokens_out for usage, _ in ceilings)
    usd = sum(amount or 0.0 for _, amount in ceilings)
    for option, limit, least in (("--max-tokens", spec.budget.tokens, tokens), ("--max-cost", spec.budget.usd, usd)):
        if limit is not None and limit < least:
            raise UsageError(
                f"{option} {limit:g} is below one evaluation of {spec.dataset}, which may take {least:.4g} for"
                f" {len(rows)} calls; give more, or a smaller max_tokens in --model-params"
            )


def need(spec: TaskSpec, work: Work) -> Need:
    """What a task will ask for, for the estimate."""
    optimizer = build_optimizer(spec)
    test, rest = len(work.splits.test), len(work.splits.validation)
    shown = [Request(work.seed.render(example.inputs)) for example in work.splits.validation]
    kind = judge_kind(work.metrics)
    asked = {Role.TASK: spec.model, Role.OPTIMIZER: spec.optimizer_model or spec.model}
    if kind:
        asked[Role.JUDGE] = spec.judge_model or spec.model
    prices = {role: price(name, spec.model_params) for role, name in asked.items()}
    return Need(
        optimizer.plan(work.extent, spec.budget),
        scoring=(test, 2 * test, 2 * test + DEFAULTS.finalists * rest),
        tokens_in=prompt_tokens(shown),
        demo_tokens=_demo_tokens(optimizer, work),
        is_judged=kind is not None,
        simulated=all(name.startswith(SIMULATED) for name in asked.values()),
        price=prices[Role.TASK],
        editor_price=prices[Role.OPTIMIZER],
        judge_price=prices.get(Role.JUDGE),
        # an optimizer model of its own is asked without the parameters of the task model
        thinking={
            role: thinking_budget(spec.model_params)
            for role, name in asked.items()
            if role is not Role.OPTIMIZER or name == spec.model
        },
        pace={role: pace(name, spec.model_params) for role, name in asked.items()},
        batch=sample_size(rest, spec.budget.task_calls),
        cell={"dataset": spec.dataset, "optimizer": spec.optimizer_label, "model": spec.model},
    )


def thinking_budget(params: Mapping[str, Any]) -> int:
    """Tokens that a model may think for an answer, as far as its parameters say it."""
    effort = THINKING.get(str(params.get("reasoning_effort", "")), 0)
    budget = params.get("thinking_budget", effort)
    return max(0, int(budget)) if isinstance(budget, int | float) else effort


def pace(model: str, params: Mapping[str, Any]) -> float:
    """How slow a model is, as a factor on what an answer takes by its length; 0: it answers at once."""
    if not model.startswith(SIMULATED):
        return 1.0
    from utils.llm.simulated import simulated_model

    settings = simulated_model(model, params, ()).settings
    return settings.latency if settings.realtime else 0.0


def _demo_tokens(optimizer: Optimizer, work: Work) -> tuple[float, float, float]:
    """Tokens that demos add to a prompt: least, likely, most. An optimizer that shows demos says how many by fields."""
    most = int(getattr(optimizer, "max_examples", 0))
    if not most:
        return (0.0, 0.0, 0.0)
    likely = (int(getattr(optimizer, "min_examples", 0)) + most) / 2
    texts = [[*row.inputs, *row.inputs.values(), row.target] for row in work.splits.train]
    tokens = sorted((sum(map(len, parts)) + DEMO_FRAME) / CHARACTERS_A_TOKEN for parts in texts)
    return (0.0, likely * sum(tokens) / len(tokens), sum(tokens[-most:]))


def price(model: str, params: Mapping[str, Any]) -> tuple[float, float] | None:
    """USD a token, in and out; None where no table has it. Of a simulated model: its play money."""
    if model.startswith(SIMULATED):
        from utils.llm.simulated import simulated_model

        settings = simulated_model(model, params, ()).settings
        return (settings.price_in / 1e6, settings.price_out / 1e6)
    from utils.llm import litellm_engine

    return litellm_engine.price(model)


def scopes(spec: TaskSpec) -> frozenset[str]:
    """The providers, at their addresses, that a task cannot do without: a refused key of one of them ends it."""
    asks_editor = build_optimizer(spec).plan(NOMINAL, spec.budget).optimizer_calls[2] > 0
    names = filter(None, (spec.model, spec.optimizer_model if asks_editor else "", spec.judge_model))
    return frozenset(gate_name(name, spec.model_params) for name in names)


# --------------------------------------------------------------------------- one optimization


def run_task(
    spec: TaskSpec,
    work: Work,
    optimizer: Optimizer,
    door: Door,
    report: Callable[[str, Problem], None] | None = None,
    recorder: Recorder | None = None,
    take: int = 0,
) -> TaskResult:
    """One optimization, then the final choice and the test, on rows that the optimizer never held.

    Raises TaskError, CallError or Drained; a spent budget is no error. `report` is told of each phase, `recorder` of
    each trial and step; `take` is the editor's.
    """
    recorder = recorder or Recorder()
    logprobs = {"logprobs": True, "top_logprobs": 10} if optimizer.wants_logprobs else {}
    params = {"temperature": 0, **logprobs, **spec.model_params}
    problem = Problem(
        work.seed,
        work.splits.train,
        work.splits.validation,
        work.metrics,
        door,
        params=params,
        spans=spans_of((*work.splits.validation, *work.splits.test)),
        rules=Rules(max_failed_share=spec.max_failed_share),
        recorder=recorder,
    )
    recorder.open(problem.objective, problem.seed)
    editor_params = spec.model_params if spec.optimizer_model in ("", spec.model) else {}
    editor = Editor(
        door,
        problem,
        seed=spec.seed,
        params={**editor_params, "temperature": 1.0},
        take=take,
        window=lambda: context_tokens(spec.optimizer_model or spec.model, editor_params),
    )
    tell = report or (lambda phase, problem: None)
    tell("optimizing", problem)
    try:
        reason = optimizer.optimize(problem, editor, Random(spec.seed))
    except Drained:
        raise
    except Stop as stop:
        reason = StopReason(stop.reason)
    if optimizer.needs_edits:
        editor.refuse_no_edits(reason)
    spent = door.ledger.accounts
    door.with_ledger(Ledger())
    tell("scoring", problem)
    initial, final = _choose(problem, optimizer)
    for trial in (initial, final):
        refuse_unanswered(trial)
        refuse_cut(trial)
    tests = _test(work, [initial.prompt, final.prompt], problem.calls, door, params, recorder)
    billed = spent.billed + door.stray
    shared = answered_by_all(tests)
    standings = [_standing(trial, test, shared) for trial, test in ((initial, tests[0]), (final, tests[-1]))]
    return TaskResult(
        task_id=spec.task_id,
        status=Status.COMPLETED,
        stop_reason=reason,
        seconds=round(door.elapsed_s, 3),
        simulated=spec.is_simulated,
        spent=Accounts(spent.logical, billed),
        scoring=door.ledger.accounts,
        initial=standings[0],
        final=standings[1],
        gain=paired_gain(tests[0].items, tests[-1].items),
        saved=paired_saving(tests[0].items, tests[-1].items),
        items={"initial": tests[0].items, "final": tests[-1].items},
        steps=tuple(problem.steps),
        curve=tuple(problem.curve),
        reported=encode(problem.reported),
        tables={**optimizer.tables(*standings), **problem.tables},
        warnings=(
            *editor.warnings,
            *problem.warnings,
            *warnings_of(_by_name((initial, final), tests)),
            *problem.calls.warnings,
            *_left_out(tests, shared),
        ),
    )


def _choose(problem: Problem, optimizer: Optimizer) -> tuple[Evaluation, Evaluation]:
    """The seed and the final prompt, both on all of validation.

    The best few are scored on the validation rows that they have not seen yet; the seed is among them, so the final
    prompt is never worth less than it to this optimizer. Ties keep the seed, then fewer tokens of prompt, then the
    earlier prompt.
    """
    trials = problem.score_all(problem.finalists(DEFAULTS.finalists, optimizer.utility))
    seed = trials[0]
    # max takes the first of equals, and finalists come best first
    best = max(
        trials,
        key=lambda trial: (
            optimizer.utility(trial.mean, trial.tokens, seed),
            trial.prompt.id == seed.prompt.id,
            -trial.prompt.length,
        ),
    )
    return seed, best


def _test(
    work: Work, prompts: Sequence[Prompt], calls: Calls, door: Door, params: Mapping[str, Any], recorder: Recorder
) -> list[Evaluation]:
    """Each distinct prompt on all test rows, as one batch."""
    distinct = list({prompt.id: prompt for prompt in prompts}.values())
    rows = work.splits.test
    asked = ask_scores(door, [(prompt, row) for prompt in distinct for row in rows], work.metrics, params)
    items = [replace(item, thinking="") for item in asked]  # nobody criticises a test answer
    size = len(rows)
    tests = [
        Evaluation(prompt, Split.TEST, tuple(items[i * size : (i + 1) * size])) for i, prompt in enumerate(distinct)
    ]
    for test in tests:
        recorder.trial(test)
    calls.add(items)
    calls.check(least=1)  # the last look, so few calls are judged as well
    for test in tests:
        refuse_unanswered(test)
        refuse_cut(test)
    return tests


def _by_name(validated: Sequence[Evaluation], tests: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """What a result rests on, by what it is called. Of a prompt that was not changed there is one test."""
    names = ("seed prompt", "final prompt")
    found = zip(names, validated, tests, strict=False)
    return {f"{name} on {trial.split}": trial for name, *trials in found for trial in trials}


def _standing(validation: Evaluation, test: Evaluation, shared: AbstractSet[str]) -> Standing:
    """The scores of one of the two prompts; on test, of the rows that both answered, so that they can be compared."""
    compared = replace(test, items=tuple(item for item in test.items if item.example_id in shared))
    on_test = replace(interval_of(compared), failed=len(test.items) - len(compared.items))
    return Standing(
        validation.prompt,
        {Split.VALIDATION.value: interval_of(validation), Split.TEST.value: on_test},
        {Split.VALIDATION.value: validation.tokens, Split.TEST.value: compared.tokens},
        {Split.VALIDATION.value: flaws(validation.items), Split.TEST.value: flaws(test.items)},
    )


def _left_out(tests: Sequence[Evaluation], shared: AbstractSet[str]) -> list[str]:
    """Which test rows are in no mean, in words."""
    missing = [item.example_id for item in tests[0].items if item.example_id not in shared]
    if not missing:
        return []
    more = f" and {len(missing) - NAMED_ROWS} more" if len(missing) > NAMED_ROWS else ""
    rows = f"{len(missing)} of {len(tests[0].items)} test rows"
    return [f"{rows} not answered for both prompts, in no mean: {', '.join(missing[:NAMED_ROWS])}{more}"]


# --------------------------------------------------------------------------- the code that decides a result


def code_of(spec: TaskSpec) -> Mapping[str, str]:
    """The hashes of the sources that decide the result of a task, by module."""
    return _code_of(spec.dataset, spec.optimizer, spec.metric)


@cache
def _code_of(dataset: str, optimizer: str, metric: str) -> Mapping[str, str]:
    rows = DATASETS[dataset].to_example.__module__ if dataset in DATASETS else csv_spec.__module__
    scored = [find_metric(metric)] if metric else []
    scorers = [part.function if isinstance(part, FunctionMetric) else type(part) for part in scored]
    modules = [Editor.__module__, Problem.__module__, type(_optimizer(optimizer)).__module__, rows]
    mine = source_of(run_task, _choose, _test, load_work, _seed_prompt)
    return {**sources_of([*modules, *(part.__module__ for part in scorers)]), __name__: mine}


# --------------------------------------------------------------------------- one attempt by one worker


@dataclass(frozen=True)
class Place:
    """Where and how an attempt runs: everything that does not decide its result."""

    archive: RunArchive
    attempt: Attempt
    earlier: tuple[Attempt, ...] = ()
    retried_at: int = 0  # the latest submission that was a retry: calls that failed before it are asked again
    in_flight: int = 8
    call_timeout_s: float = 120.0
    wrap: Callable[[LLM, str], LLM] = lambda model, task_id: model  # the run's cache, where there is one
    draining: Callable[[], bool] = lambda: False
    tell: Callable[[Progress], None] = lambda progress: None
    purse: Purse | None = None
    gates: dict[str, Gate] = field(default_factory=dict)
    bulletins: Path | None = None  # the folder in which this run's processes tell each other of a provider's pauses


def attempt(spec: TaskSpec, place: Place) -> TaskResult | None:
    """One try of a task; its result is in the archive when this returns. None: the run was asked to stop.

    Being killed, preempted or cancelled is not a failure of the task: `KeyboardInterrupt` and its like pass through.
    Nor is a full disk, on which a result could not be written either: its OSError passes too.
    """
    door: Door | None = None
    try:
        place.tell(Progress(spec.task_id, "loading"))
        work = load_work(spec, place.archive.load_splits(spec))
        with (
            closing(place.archive.journal(place.attempt)) as calls,
            closing(place.archive.recording(place.attempt)) as steps,
            closing(_door(spec, work, place, calls)) as door,
        ):
            report = _reporter(spec, place, door)
            result = run_task(spec, work, build_optimizer(spec), door, report, Recording(steps), _take(place))
            result = replace(result, code=content_hash(code_of(spec)))
    except Drained as stop:
        logger.info("stopped: %s", stop)
        return None
    except Exception as error:  # the one place where whatever went wrong becomes a failed result
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise  # no failure of the task: it goes on where it was once there is room
        logger.exception("the task failed")
        result = _failed(spec, error, door, door.paid if door else Bills(place.archive).of(place.earlier))
    place.archive.save_result(place.attempt, result)
    return result


def _take(place: Place) -> int:
    """How often this task has failed before because no edit could be got."""
    results = (place.archive.result_of(earlier) for earlier in place.earlier) if place.retried_at else ()
    return sum(result.stop_reason is StopReason.OPTIMIZER_FAILED for result in results if result and result.error)


def _door(spec: TaskSpec, work: Work, place: Place, calls: Appender) -> Door:
    archive = place.archive
    journal = Journal(calls, calls.sync)
    for earlier in place.earlier:
        journal.read(
            archive.take_over(earlier),
            name=archive.journal_name(earlier),
            forget_failures=earlier.submission < place.retried_at,
        )
    examples = (*work.splits.train, *work.splits.validation, *work.splits.test)

    policy = RetryPolicy(timeout_s=place.call_timeout_s)

    def model(name: str, kind: Literal["chat", "embedding"] = "chat") -> LLM:
        connected = connect(
            name,
            spec.model_params,
            gates=place.gates,
            policy=policy,
            in_flight=place.in_flight,
            kind=kind,
            examples=examples,
            bulletins=place.bulletins,
        )
        # three seeds of a model that is asked at another temperature than 0 must not become copies of one
        is_fixed = kind == "embedding" or takes_temperature(name, spec.model_params)
        return place.wrap(connected, spec.task_id) if is_fixed and not name.startswith(SIMULATED) else connected

    models = {Role.TASK: model(spec.model)}
    same = spec.optimizer_model in ("", spec.model)
    models[Role.OPTIMIZER] = models[Role.TASK] if same else model(spec.optimizer_model)
    kind = judge_kind(work.metrics)
    if kind:
        same = kind == "chat" and spec.judge_model in ("", spec.model)
        models[Role.JUDGE] = models[Role.TASK] if same else model(spec.judge_model or spec.model, kind)
    return Door(
        models,
        journal,
        Ledger(spec.budget),
        in_flight=place.in_flight,
        draining=place.draining,
        purse=place.purse,
    )


def _reporter(spec: TaskSpec, place: Place, door: Door) -> Callable[[str, Problem], None]:
    """Tells of a phase when it begins, and lets the door tell of every answer in it."""

    def report(phase: str, problem: Problem) -> None:
        logger.info("%s", phase)

        def tell() -> None:
            gate = place.gates.get(gate_name(spec.model, spec.model_params))
            status = gate.status() if gate else None
            place.tell(
                Progress(
                    spec.task_id,
                    phase,
                    task_calls=door.ledger.logical.task_calls,
                    best=problem.curve[-1][1] if problem.curve else None,
                    spent=door.total.billed,
                    open_calls=door.open,
                    waiting=status.waiting if status else 0,
                    resumes_in_s=status.resumes_in_s if status else 0.0,
                )
            )

        door.listen = tell
        tell()

    return report


def _failed(spec: TaskSpec, error: Exception, door: Door | None, paid: Spend) -> TaskResult:
    kind = error.kind if isinstance(error, CallError | TaskError) else ErrorKind.INTERNAL
    if isinstance(error, UsageError):
        kind = ErrorKind.BAD_REQUEST
    message = redact(one_line(str(error))) or type(error).__name__
    known = isinstance(error, CallError | TaskError | UsageError)
    refused = error.model if isinstance(error, CallError) else ""
    scope = gate_name(refused, spec.model_params) if refused else ""
    return TaskResult(
        task_id=spec.task_id,
        status=Status.FAILED,
        stop_reason=StopReason.OPTIMIZER_FAILED if isinstance(error, NoEdits) else StopReason.ERROR,
        seconds=round(door.elapsed_s, 3) if door else 0.0,
        simulated=spec.is_simulated,
        spent=Accounts(door.total.logical if door else Spend(), paid),
        error=Failure(
            kind, message if known else f"{type(error).__name__}: {message}", redact(traceback.format_exc()), scope
        ),
    )
