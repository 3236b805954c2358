"""What a run looks like in a terminal: rich renderables made from an overview. Local and remote runs look the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from utils.serialization import FLOAT

Row = dict[str, Any]

STYLES = {"completed": "green", "failed": "red", "running": "cyan", "pending": "dim"}
SIMULATED = "simulated: these figures show the mechanics of optimizers, they are no evidence about real models"


def number(value: Any) -> float:
    """A number of an overview; NaN for what is missing."""
    if isinstance(value, dict) and FLOAT in value:
        return float(value[FLOAT])
    return math.nan if value is None else float(value)


def money(usd: float | None) -> str:
    """An amount, with as many digits as it needs; a question mark where no price is known."""
    if usd is None:
        return "$?"
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"


def duration(seconds: float | None) -> str:
    """A time as 4.2s, 3:05 or 2:03:05.

    >>> duration(185), duration(4.2)
    ('3:05', '4.2s')
    """
    if seconds is None or math.isnan(seconds):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def paid(task: Row) -> float | None:
    """What a task cost in all, in USD; None where a price is unknown."""
    parts = [task[key]["billed"]["usd"] for key in ("spent", "scoring") if task[key]]
    return None if any(part is None for part in parts) else sum(map(number, parts))


def total_paid(tasks: Iterable[Row]) -> float | None:
    """What some tasks cost together."""
    amounts = [paid(task) for task in tasks]
    return None if any(amount is None for amount in amounts) else sum(amount or 0.0 for amount in amounts)


def label(task: Row) -> str:
    """The optimizer with its overridden parameters."""
    params = ",".join(f"{name}={value}" for name, value in task["optimizer_params"].items())
    return f"{task['optimizer']}:{params}" if params else str(task["optimizer"])


def cells(tasks: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """The tasks by dataset, model and optimizer; seeds share a cell."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for task in tasks:
        grouped.setdefault((task["dataset"], task["model"], label(task)), []).append(task)
    return grouped


def results(overview: Row) -> RenderableType:
    """The table at the end: a line a cell, means over its seeds, best first within a dataset and model."""
    table = _table(_title(overview))
    models = len({task["model"] for task in overview["tasks"]}) > 1
    for name in ("dataset", *(["model"] if models else []), "optimizer"):
        table.add_column(name, overflow="fold")
    for name in ("done", "seed", "test (95 %)", "gain (95 %)", "verdict", "calls", "cost", "time"):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    before = None
    for (dataset, model, optimizer), tasks in _ranked(overview["tasks"]):
        if before not in (None, (dataset, model)):
            table.add_section()
        shown = dataset if before != (dataset, model) else ""
        before = (dataset, model)
        table.add_row(escape(shown), *([escape(model)] if models else []), escape(optimizer), *_figures(tasks))
    failed = [task for task in overview["tasks"] if task["error"]]
    notes = [Text(SIMULATED, style="yellow")] if overview["simulated"] else []
    return Group(table, *map(_failure, failed[:8]), *_more(len(failed) - 8), *notes)


def tasks_table(overview: Row) -> RenderableType:
    """A line a task, and under it what changed in the prompt."""
    table = _table(_title(overview))
    for name in ("task", "status", "stopped by", "validation", "test", "gain", "calls", "cost", "time", "attempts"):
        table.add_column(name, overflow="fold")
    for task in overview["tasks"]:
        style = STYLES[task["status"]]
        table.add_row(
            escape(task["task_id"]),
            Text(task["status"], style=style),
            task["stop_reason"] or "",
            _change(task, "validation"),
            _change(task, "test"),
            _interval(task["gain"], signed=True),
            _calls(task["spent"]["logical"]) if task["spent"] else "",
            money(paid(task)),
            duration(task["seconds"]),
            str(task["attempts"]),
        )
    prompts = [_prompt(task) for task in overview["tasks"] if task["final"]]
    failures = [_failure(task) for task in overview["tasks"] if task["error"]]
    return Group(table, *prompts, *failures)


def runs_table(overviews: Sequence[Row]) -> RenderableType:
    """A line a run."""
    table = _table()
    for name in ("run", "created", "status", "tasks", "failed", "cost"):
        table.add_column(name, no_wrap=True)
    for overview in overviews:
        counts = [task["status"] for task in overview["tasks"]]
        table.add_row(
            escape(overview["run_id"]),
            overview["created"],
            Text(overview["status"], style=STYLES.get(overview["status"], "yellow")),
            f"{counts.count('completed')}/{len(counts)}",
            str(counts.count("failed")),
            money(total_paid(overview["tasks"])) + (" simulated" if overview["simulated"] else ""),
        )
    return table


def _table(title: str = "") -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )


def verdict(gain: tuple[float, float, float]) -> str:
    """What a gain with its interval allows to say."""
    mean, low, high = gain
    if math.isnan(mean):
        return ""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not detectable"


def _ranked(tasks: Iterable[Row]) -> list[tuple[tuple[str, str, str], list[Row]]]:
    grouped = cells(tasks)
    order = {(dataset, model): place for place, (dataset, model, _) in enumerate(reversed(grouped))}

    def rank(item: tuple[tuple[str, str, str], list[Row]]) -> tuple[int, float]:
        (dataset, model, _), members = item
        mean = _mean(members, "final", "mean")
        return (-order[dataset, model], math.inf if math.isnan(mean) else -mean)

    return sorted(grouped.items(), key=rank)


def _figures(tasks: Sequence[Row]) -> list[RenderableType]:
    done = [task for task in tasks if task["final"]]
    failed = sum(task["status"] == "failed" for task in tasks)
    count = f"{len(done)}/{len(tasks)}" + (f" ({failed} failed)" if failed else "")
    if not done:
        return [Text(count, style="red" if failed else ""), *[""] * 7]
    low, high = _mean(done, "final", "low"), _mean(done, "final", "high")
    # seeds share the test rows, so averaging them does not narrow the interval
    gain = tuple(fmean(number(task["gain"][part]) for task in done) for part in ("mean", "low", "high"))
    says = "" if all(task["optimizer"] == "no_op" for task in done) else verdict(gain)  # type: ignore[arg-type]
    calls = fmean(task["spent"]["logical"]["task_calls"] for task in done)
    return [
        Text(count, style="red" if failed else ""),
        f"{_mean(done, 'initial', 'mean'):.3f}",
        Text.assemble((f"{_mean(done, 'final', 'mean'):.3f}", "bold"), f" {low:.2f}-{high:.2f}"),
        f"{gain[0]:+.3f} ±{(gain[2] - gain[1]) / 2:.2f}",
        Text(says, style={"better": "green", "worse": "red"}.get(says, "dim")),
        f"{calls:,.0f}",
        money(total_paid(tasks)),
        duration(sum(number(task["seconds"]) for task in done)),
    ]


def _mean(tasks: Sequence[Row], which: str, part: str) -> float:
    values = [number(task[which]["scores"]["test"][part]) for task in tasks if task[which]]
    return fmean(values) if values else math.nan


def _title(overview: Row) -> str:
    counts = [task["status"] for task in overview["tasks"]]
    words = f"{counts.count('completed')} of {len(counts)} tasks completed"
    failed = counts.count("failed")
    return f"{escape(overview['run_id'])}: {overview['status']}, {words}" + (f", {failed} failed" if failed else "")


def _failure(task: Row) -> Text:
    return Text(f"{task['task_id']}: {task['error']['class']}: {task['error']['message']}", style="red")


def _more(count: int) -> list[Text]:
    return [Text(f"... and {count} more failed; see check_results.py --detailed", style="red")] if count > 0 else []


def _interval(value: Row | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    sign = "+" if signed else ""
    mean, low, high = (number(value[part]) for part in ("mean", "low", "high"))
    failed = f", {value['failed']} not answered" if value["failed"] else ""
    return f"{mean:{sign}.3f} ({low:{sign}.2f} to {high:{sign}.2f}{failed})"


def _change(task: Row, split: str) -> str:
    if not task["final"]:
        return ""
    before, after = (task[which]["scores"][split] for which in ("initial", "final"))
    return f"{number(before['mean']):.3f} to {_interval(after)}"


def _calls(spend: Row) -> str:
    return f"{spend['task_calls']} + {spend['optimizer_calls']} + {spend['judge_calls']}"


def _prompt(task: Row) -> RenderableType:
    title = Text(f"\n{task['task_id']}", style="bold")
    initial, final = task["initial"]["prompt"], task["final"]["prompt"]
    if initial == final:
        return Group(title, Text("  prompt unchanged", style="dim"))
    lines = []
    for part in ("system", "user", "output"):
        if initial[part] != final[part]:
            lines += [Text(f"  - {part}: {initial[part]}", style="red"), Text(f"  + {part}: {final[part]}", "green")]
    if final["demos"]:
        ids = ", ".join(demo["example_id"] for demo in final["demos"])
        lines.append(Text(f"  + {len(final['demos'])} demos: {ids}", style="green"))
    return Group(title, *lines)
