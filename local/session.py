"""A command, from what was typed to its exit code: settings, estimate, question, run, table."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmark_config import Settings
from benchmark_task import check_limits, parse_assignments
from local.launch import Launch, finished_results, plan_again, plan_new, run, settings_again, where
from local.live import Plain, Tally, View
from utils.archive import Kind
from utils.errors import UsageError, unknown
from utils.report.estimate import Estimate
from utils.report.overview import Overview
from utils.report.tables import duration, money, results
from utils.serialization import decode, dumps
from utils.validation import confirm

WIDE = 120  # columns where there is no terminal that could be narrower

LOG_LEVELS = ("debug", "info", "warning", "error")

COMPLETED, SOME_FAILED, RUN_BUDGET, INTERRUPTED = 0, 1, 3, 130


def conduct(
    given: Mapping[str, Any],
    *,
    manifest: str | None,
    resume: str | None,
    retry: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Do what a command asks for; the exit code."""
    if resume is not None and retry is not None:
        raise UsageError("--resume-run-id and --retry-failed-run-id are both given; give one")
    asked = read_asked(given, manifest)
    # with --json stdout is for the one JSON text; everything said on the way goes to stderr
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    again = resume if retry is None else retry
    if again is None:
        settings = checked(decode(Settings, asked))
        launch = plan_new(settings)
    else:
        option = "--resume-run-id" if retry is None else "--retry-failed-run-id"
        settings = checked(settings_again(asked, again, option))
        launch = plan_again(settings, again, retry=retry is not None)
    for note in launch.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False)
    if launch.tasks:
        show_estimate(console, launch)
    else:
        console.print(f"run {launch.plan.run_id}: nothing to do, every task is final", markup=False, highlight=False)
    if dry_run:
        if as_json:
            print(dumps({"run_id": launch.plan.run_id, "estimate": launch.estimate.as_dict()}, indent=1))
        return COMPLETED
    if launch.tasks and not yes and (unnamed := unnamed_axes(settings, launch)):
        question = f"All {' and all '.join(unnamed)} will run, {_tasks(len(launch.tasks))}. Go on?"
        if not confirm(question, is_terminal=sys.stdin.isatty(), ask=partial(console.input, markup=False)):
            raise UsageError("nothing was started; name what should run with --demo-datasets and --optimizers")
    return execute(launch, settings, console, as_json=as_json)


def read_asked(given: Mapping[str, Any], manifest: str | None) -> dict[str, Any]:
    """The manifest's settings, and over them what was typed; what neither names is not there."""
    typed = {name: value for name, value in given.items() if value is not None and value != ()}
    if "model_params" in typed:
        typed["model_params"] = parse_assignments(typed["model_params"], "--model-params")
    base = _read_manifest(manifest) if manifest is not None else {}
    for name, other in (("prompt", "prompt_file"), ("prompt_file", "prompt")):
        if name in typed and other not in typed:
            base.pop(other, None)  # two ways of saying one thing: what was typed wins
    return {name: list(value) if isinstance(value, tuple) else value for name, value in {**base, **typed}.items()}


def checked(settings: Settings) -> Settings:
    """The settings, if every limit is one. Raises UsageError."""
    check_limits(settings)
    if settings.log_level not in LOG_LEVELS:
        raise unknown("--log-level", settings.log_level, LOG_LEVELS)
    return settings


def _read_manifest(path: str) -> dict[str, Any]:
    try:
        read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --config {path!r}: {error}; give a UTF-8 text, YAML or JSON") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UsageError(f"--config {path!r} is neither YAML nor JSON: {where}") from None
    if not isinstance(read, dict):
        raise UsageError(f"--config {path!r} holds no mapping; `--config-schema` prints what it may hold")
    known = Settings.__dataclass_fields__
    for key in read:
        if key not in known:
            raise UsageError(f"--config {path!r}: {unknown('key', str(key), known)}")
    try:
        decode(Settings, read)
    except UsageError as error:
        raise UsageError(f"--config {path!r}: {error}; `--config-schema` prints what it may hold") from None
    return read


def unnamed_axes(settings: Settings, launch: Launch) -> list[str]:
    """The axes of a new grid that run in full without having been named."""
    axes = {
        "datasets": settings.demo_datasets or settings.dataset_csv,
        "optimizers": settings.optimizers,
        "configured models": settings.models,
    }
    return [name for name, value in axes.items() if not value] if launch.added is not None else []


def execute(launch: Launch, settings: Settings, console: Console, *, as_json: bool) -> int:
    """Run what is to be done, show what came of it; the exit code."""
    interrupted = spent_up = False
    if launch.tasks:
        tally = Tally(launch.plan.tasks, finished_results(launch), time.monotonic)
        title = f"run {launch.plan.run_id}" + (" (simulated)" if _simulated(launch) else "")
        watcher = View(tally, console, title) if console.is_terminal else Plain(tally, console)
        try:
            runner = run(launch, settings, watcher)
        finally:
            watcher.close()
        interrupted, spent_up = runner.was_interrupted, runner.purse.is_empty
    overview = Overview(launch.archive, launch.archive.load_plan()).render(stopped=True)
    if as_json:
        print(dumps(overview, indent=1))
    else:
        console.print(results(overview))
        say_next(console, launch, settings, overview, spent_up=spent_up)
    if interrupted:
        return INTERRUPTED
    if spent_up:
        return RUN_BUDGET
    return COMPLETED if overview["status"] == "completed" else SOME_FAILED


def show_estimate(console: Console, launch: Launch) -> None:
    """What is to come, before anything is spent."""
    e: Estimate = launch.estimate
    done = sum(state.result != "" for state in launch.states.values()) if launch.kind is not Kind.RETRY else 0
    reused = f", {done} are done and reused" if done else ""
    calls = [f"about {e.task_calls[1]:,.0f} task calls (at most {e.task_calls[2]:,.0f})"]
    for name, values in (("optimizer", e.optimizer_calls), ("judge", e.judge_calls)):
        calls += [f"{values[1]:,.0f} {name} calls"] if values[2] else []
    about = [*calls, f"{round(e.tokens[1], -2):,.0f} tokens", *_moneys(e), f"takes about {duration(e.seconds)}"]
    lines = [
        f"run {launch.plan.run_id}: {launch.kind}, {_tasks(len(launch.tasks))} to do{reused}",
        f"estimate: {', '.join(about)}",
    ]
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _moneys(e: Estimate) -> list[str]:
    """The money of an estimate, with its range: real and play money apart."""
    words = []
    if e.usd is None:
        words.append("at an unknown price")
    elif e.usd[2] or not e.usd_simulated[2]:
        words.append(f"{money(e.usd[1])} ({money(e.usd[0])} to {money(e.usd[2])})")
    if e.usd_simulated[2]:
        low, likely, high = (money(usd, simulated=True) for usd in e.usd_simulated)
        words.append(f"{likely} ({low} to {high})")
    return words


def say_next(
    console: Console, launch: Launch, settings: Settings, overview: Mapping[str, Any], *, spent_up: bool
) -> None:
    """The commands that make sense now."""
    place = where(settings.checkpoint_dir)
    run_id = launch.plan.run_id
    lines = [f"python check_results.py --run-id {run_id} --detailed{place}"]
    if overview["status"] == "failed":
        lines.append(f"python run_benchmark.py --retry-failed-run-id {run_id}{place}")
    elif overview["status"] != "completed":
        more = " --run-max-cost USD" if spent_up else ""
        lines.append(f"python run_benchmark.py --resume-run-id {run_id}{more}{place}")
    console.print("next: " + "\n      ".join(lines), highlight=False, soft_wrap=True)


def _simulated(launch: Launch) -> bool:
    return any(task.is_simulated for task in launch.plan.tasks)


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count:,} tasks"
