"""A command, from what was typed to its exit code: settings, estimate, question, run, table."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmark_config import Settings
from benchmark_task import parse_assignments
from local.launch import Launch, finished_results, plan_again, plan_new, run
from local.live import Plain, Tally, View
from utils.errors import UsageError
from utils.report.estimate import Estimate
from utils.report.overview import Overview
from utils.report.tables import duration, money, results
from utils.serialization import decode, dumps
from utils.validation import confirm

WIDE = 120  # columns where there is no terminal that could be narrower

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
    if resume and retry:
        raise UsageError("--resume-run-id and --retry-failed-run-id are both given; give one")
    settings = read_settings(given, manifest)
    # with --json stdout is for the one JSON text; everything said on the way goes to stderr
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    again = resume or retry
    launch = plan_again(settings, again, retry=bool(retry)) if again else plan_new(settings)
    for note in launch.notes:
        console.print(f"note: {note}", style="dim", highlight=False)
    if launch.tasks:
        show_estimate(console, launch)
    if dry_run:
        if as_json:
            print(dumps({"run_id": launch.plan.run_id, "estimate": launch.estimate.as_dict()}, indent=1))
        return COMPLETED
    if launch.tasks and not yes and (unnamed := unnamed_axes(settings, launch)):
        question = f"All {' and all '.join(unnamed)} will run: {len(launch.tasks)} tasks. Go on?"
        if not confirm(question, is_terminal=sys.stdin.isatty(), ask=console.input):
            raise UsageError("nothing was started; name what should run with --demo-datasets and --optimizers")
    return execute(launch, settings, console, as_json=as_json)


def read_settings(given: Mapping[str, Any], manifest: str | None) -> Settings:
    """The manifest's settings, and over them what was typed."""
    typed = {name: value for name, value in given.items() if value is not None and value != ()}
    if "model_params" in typed:
        typed["model_params"] = parse_assignments(typed["model_params"], "--model-params")
    base = _read_manifest(manifest) if manifest else {}
    return decode(Settings, {name: list(v) if isinstance(v, tuple) else v for name, v in {**base, **typed}.items()})


def _read_manifest(path: str) -> dict[str, Any]:
    try:
        read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --config {path!r}: {error}") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UsageError(f"--config {path!r} is neither YAML nor JSON: {where}") from None
    if not isinstance(read, dict):
        raise UsageError(f"--config {path!r} holds no mapping; `--config-schema` prints what it may hold")
    try:
        decode(Settings, read)
    except UsageError as error:
        raise UsageError(f"--config {path!r}: {error}") from None
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
        title = launch.plan.run_id + (" (simulated)" if _simulated(launch) else "")
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
        say_next(console, launch, settings, overview)
    if interrupted:
        return INTERRUPTED
    if spent_up:
        return RUN_BUDGET
    return COMPLETED if overview["status"] == "completed" else SOME_FAILED


def show_estimate(console: Console, launch: Launch) -> None:
    """One line of what is to come, before anything is spent."""
    e: Estimate = launch.estimate
    done = len(launch.plan.tasks) - len(launch.tasks)
    usd = "price unknown" if e.usd is None else f"{money(e.usd[1])} ({money(e.usd[0])} to {money(e.usd[2])})"
    reused = f" ({done} are done and reused)" if done and launch.states else ""
    console.print(
        f"{launch.plan.run_id}: {launch.kind}, {len(launch.tasks)} tasks{reused}, "
        f"about {e.task_calls[1]:,.0f} task calls (at most {e.task_calls[2]:,.0f}) "
        f"and {e.optimizer_calls[1]:,.0f} optimizer calls, "
        f"{e.tokens[1] / 1e6:,.2f} M tokens, {usd}, {duration(e.seconds)}",
        highlight=False,
        soft_wrap=True,
    )


def say_next(console: Console, launch: Launch, settings: Settings, overview: Mapping[str, Any]) -> None:
    """The commands that make sense now."""
    where = "" if settings.checkpoint_dir == Settings.checkpoint_dir else f" --checkpoint-dir {settings.checkpoint_dir}"
    run_id = launch.plan.run_id
    lines = [f"python check_results.py --run-id {run_id} --detailed{where}"]
    if overview["status"] == "failed":
        lines.append(f"python run_benchmark.py --retry-failed-run-id {run_id}{where}")
    elif overview["status"] != "completed":
        lines.append(f"python run_benchmark.py --resume-run-id {run_id}{where}")
    console.print("next: " + "\n      ".join(lines), highlight=False, soft_wrap=True)


def _simulated(launch: Launch) -> bool:
    return any(task.model.startswith("sim/") for task in launch.plan.tasks)
