"""A command, from what was typed to its exit code: settings, plan, estimate, question; then its venue does the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmark_config import Settings
from benchmark_task import Launch, Probed, Venue, check_limits, parse_assignments
from local.launch import open_run, plan_again, plan_new, settings_again
from utils.archive import Kind
from utils.errors import UsageError, unknown
from utils.redaction import refuse_secrets
from utils.report.estimate import Estimate
from utils.report.tables import duration, money
from utils.serialization import decode, dumps, encode
from utils.tracing.exporter import parse_items
from utils.validation import confirm
from utils.values import read_value

WIDE = 120  # columns where there is no terminal that could be narrower

LOG_LEVELS = ("debug", "info", "warning", "error")

COMPLETED = 0
MOST_SHARES = 12  # lines of an axis in the estimate


def conduct(
    given: Mapping[str, Any],
    venue_at: Callable[[str], Venue],
    *,
    manifest: str | None,
    resume: str | None,
    retry: str | None,
    errors: Sequence[str],
    dry_run: bool,
    probe: bool | None,
    yes: bool,
    as_json: bool,
    accept_changed_code: bool = False,
) -> int:
    """Do what a command asks for, at the venue for a results directory; the exit code."""
    if resume is not None and retry is not None:
        raise UsageError("--resume-run-id and --retry-failed-run-id are both given; give one")
    if errors and retry is None:
        raise UsageError("--error-class chooses what is retried; give it with --retry-failed-run-id")
    asked = read_asked(given, manifest)
    venue = venue_at(asked.get("checkpoint_dir", Settings.checkpoint_dir))
    # with --json stdout is for the one JSON text; everything said on the way goes to stderr
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    again = resume if retry is None else retry
    if again is None:
        settings = checked(decode(Settings, asked), venue)
        launch = plan_new(settings, venue, accept_changed_code=accept_changed_code, is_dry=dry_run and not probe)
    else:
        option = "--resume-run-id" if retry is None else "--retry-failed-run-id"
        settings = checked(settings_again(asked, venue, again, option), venue)
        launch = plan_again(
            settings, venue, again, retry=retry is not None, errors=errors, accept_changed_code=accept_changed_code
        )
    for note in launch.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False)
    if launch.tasks:
        show_estimate(console, launch, detailed=dry_run)
    else:
        console.print(nothing_to_do(launch), markup=False, highlight=False)
    if dry_run:
        probed = venue.probe(launch) if probe else None
        show_preflight(console, probed)
        if as_json:
            told = {} if probed is None else {"preflight": probed.as_dicts()}
            print(dumps({"run_id": launch.plan.run_id, "estimate": launch.estimate.as_dict(), **told}, indent=1))
        return COMPLETED
    if launch.tasks and not yes and (unnamed := unnamed_axes(settings, launch)):
        question = f"All {' and all '.join(unnamed)} will run, {_tasks(len(launch.tasks))}. Go on?"
        if not confirm(question, is_terminal=sys.stdin.isatty(), ask=partial(console.input, markup=False)):
            raise UsageError("nothing was started; name what should run with --demo-datasets and --optimizers")
    if probe is not False and launch.tasks and (probed := venue.probe(launch)):
        show_preflight(console, probed)
        launch = replace(launch, probed=probed.paid)
    return venue.dispatch(launch, settings, console, as_json=as_json)


def show_preflight(console: Console, probed: Probed | None) -> None:
    """What the first call to each model gave."""
    for line in probed.lines() if probed else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def cancel(run_id: str, venue: Venue) -> int:
    """Take back what a run has not finished; the exit code."""
    return venue.cancel(lambda: open_run(venue, run_id, "--cancel-run-id"), Console())


def delete(run_id: str, venue: Venue, *, yes: bool) -> int:
    """Remove a run with all its files, if that is really wanted; the exit code."""
    console = Console()

    def make_sure(where: str) -> None:
        question = f"Delete run {run_id!r} in {where}, with every answer that was paid for?"
        if yes or confirm(question, is_terminal=sys.stdin.isatty(), ask=partial(console.input, markup=False)):
            return
        raise UsageError(f"nothing was deleted; run {run_id!r} is as it was")

    venue.delete(open_run(venue, run_id, "--delete-run-id"), make_sure)
    console.print(f"run {run_id}: deleted", markup=False, highlight=False)
    return COMPLETED


def nothing_to_do(launch: Launch) -> str:
    """Why no task is dispatched: all are final, or the others are being done."""
    going_on = sum(not state.status.is_final for state in launch.states.values())
    why = f"what is left of it, {_tasks(going_on)}, is queued or running" if going_on else "every task is final"
    return f"run {launch.plan.run_id}: nothing to do, {why}"


def read_asked(given: Mapping[str, Any], manifest: str | None) -> dict[str, Any]:
    """The manifest's settings, and over them what was typed; what neither names is not there."""
    typed = {name: value for name, value in given.items() if value is not None and value != ()}
    if "model_params" in typed:
        typed["model_params"] = parse_assignments(typed["model_params"], "--model-params")[0]
    base = _read_manifest(manifest) if manifest is not None else {}
    for name, other in (("prompt", "prompt_file"), ("prompt_file", "prompt")):
        if name in typed and other not in typed:
            base.pop(other, None)  # two ways of saying one thing: what was typed wins
    return {name: list(value) if isinstance(value, tuple) else value for name, value in {**base, **typed}.items()}


def checked(settings: Settings, venue: Venue) -> Settings:
    """The settings, if every limit is one that can be kept. Raises UsageError."""
    for name, value in encode(settings).items():
        refuse_secrets(value, f"--{name.replace('_', '-')}")
    check_limits(settings)
    venue.check(settings)
    if settings.trace_items:
        parse_items(settings.trace_items)
    if settings.log_level not in LOG_LEVELS:
        raise unknown("--log-level", settings.log_level, LOG_LEVELS)
    return settings


def _read_manifest(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --config {path!r}: {error}; give a UTF-8 text, YAML or JSON") from None
    read = read_value(text, f"--config {path!r}")
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
    return [name for name, value in axes.items() if not value] if launch.added and launch.added.tasks else []


def show_estimate(console: Console, launch: Launch, *, detailed: bool) -> None:
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
    if detailed:
        lines += [f"  {line}" for axis, parts in e.parts.items() if len(parts) > 1 for line in _shares(axis, parts)]
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _shares(axis: str, parts: Mapping[str, Estimate]) -> list[str]:
    """What each part of an axis is of the whole, dearest first."""
    order = sorted(parts.items(), key=lambda item: -item[1].tokens[1])
    width = max(len(name) for name in parts)
    lines = []
    for name, part in order[:MOST_SHARES]:
        calls = part.task_calls[1] + part.optimizer_calls[1] + part.judge_calls[1]
        figures = f"{calls:>9,.0f} calls  {round(part.tokens[1], -2):>12,.0f} tokens  {_likely_money(part):>12}"
        lines.append(f"{axis:9}  {name:{width}}  {figures}")
    more = len(parts) - MOST_SHARES
    return [*lines, f"{axis:9}  ... and {more} more; --json has all"] if more > 0 else lines


def _likely_money(e: Estimate) -> str:
    if e.usd is None:
        return "$?"
    return money(e.usd_simulated[1], simulated=True) if e.usd_simulated[2] and not e.usd[2] else money(e.usd[1])


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


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count:,} tasks"
