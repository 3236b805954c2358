"""What a run looks like in a terminal: rich renderables made from an overview. Local and remote runs look the same."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from utils.prompt import DEMOS
from utils.report.overview import paid_by
from utils.serialization import FLOAT

Row = dict[str, Any]

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all control characters but tab and newline
STYLES = {"completed": "green", "failed": "red", "running": "cyan", "pending": "dim"}
SLOT = f"{{{DEMOS}}}"
BEGINNING = 60  # characters of a prompt's text that stand for it in a table
LEAST_SAVED = 0.05  # share of an answer's tokens; less is not told beside the verdict
MOST_LINES = 8  # of failures, and of warnings, under the table of results
SIMULATED = "simulated: the mechanics of optimizers, no evidence about real models; sim$ is play money"


def number(value: Any) -> float:
    """A number of an overview; NaN for what is missing."""
    if isinstance(value, dict) and FLOAT in value:
        return float(value[FLOAT])
    return math.nan if value is None else float(value)


def money(usd: float | None, *, simulated: bool = False) -> str:
    """An amount, with as many digits as it needs; a question mark where no price is known; play money says so.

    >>> money(2.5), money(0.0125), money(0.0125, simulated=True), money(None)
    ('$2.50', '$0.0125', 'sim$0.0125', '$?')
    """
    sign = "sim$" if simulated else "$"
    if usd is None:
        return f"{sign}?"
    if 0 < usd < 0.0001:
        return f"<{sign}0.0001"
    return f"{sign}{usd:,.2f}" if usd >= 1 or usd == 0 else f"{sign}{usd:.4f}"


def both_moneys(real: float | None, play: float | None) -> str:
    """Real and play money side by side; what there is none of is left out, unless there is none at all."""
    if real == 0 and play != 0:
        return money(play, simulated=True)
    return money(real) + (f" and {money(play, simulated=True)}" if play != 0 else "")


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


def cost(tasks: Sequence[Row]) -> str:
    """What some tasks have cost so far, whatever came of them, real money and play money apart."""
    real, play = (paid_by(tasks, simulated=kind) for kind in (False, True))
    if all(task["simulated"] for task in tasks):
        return money(play, simulated=True)
    return both_moneys(real, play)


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


def printable(value: Any) -> Any:
    """The same with all texts fit for a terminal: rows and prompts may hold escape codes, or half an emoji."""
    if isinstance(value, str):
        return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, list) else value


def figure(value: float, form: str) -> str:
    """A number in a form; a dash where there is none.

    >>> figure(0.5, "+.2f"), figure(math.nan, "+.2f")
    ('+0.50', '-')
    """
    return "-" if math.isnan(value) else format(value, form)


def results(overview: Row) -> RenderableType:
    """The table at the end: a line a cell, means over its seeds, best first within a dataset and model."""
    grid = Grid(COLUMNS, all_done=overview["status"] == "completed")
    for (dataset, model, optimizer), tasks in _ranked(overview["tasks"]):
        grid.add(printable(f"{dataset} · {model}"), [Text(printable(optimizer)), *_figures(tasks)])
    failed = [task for task in overview["tasks"] if task["error"]]
    return Group(
        Text(),
        _title(overview),
        Text(),
        grid,
        Text(),
        *_failures(failed),
        *_warnings(overview["tasks"]),
        *_notes(overview),
    )


def watched(overview: Row, eta_s: float | None) -> RenderableType:
    """The same while it goes on, what matters most first: a screen may have no room for all of it."""
    grid = Grid(COLUMNS, all_done=overview["status"] == "completed")
    order = {"running": 0, "failed": 1, "pending": 2, "completed": 3}
    for (dataset, model, optimizer), tasks in _ranked(overview["tasks"]):
        grid.add(
            printable(f"{dataset} · {model}"),
            [Text(printable(optimizer)), *_figures(tasks)],
            rank=min(order[task["status"]] for task in tasks),
        )
    counts = [task["status"] for task in overview["tasks"]]
    ahead = f"{counts.count('running')} running, {counts.count('pending')} waiting, ETA {duration(eta_s)}"
    failed = [task for task in overview["tasks"] if task["error"]]
    return Group(_title(overview), Text(ahead, style="dim"), *_classes(failed), Text(), grid, *_notes(overview))


class Screenful:
    """As much of something as a screen has room for, less some lines, from its top; and how much is left out."""

    def __init__(self, of: RenderableType, spare: int) -> None:
        self._of = of
        self._spare = spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._of, options, pad=False)
        room = max(1, console.height - self._spare)
        shown = lines if len(lines) <= room else lines[: room - 1]
        for line in shown:
            yield from line
            yield Segment.line()
        if len(lines) > len(shown):
            yield Text(f"... and {len(lines) - len(shown)} lines more, for a larger window", style="dim")


@dataclass(frozen=True)
class Column:
    """A column of the table of results; those of the greatest `drop` go first where the terminal is narrow."""

    name: str
    justify: Literal["left", "right"] = "right"
    drop: int = 0  # 0: never


COLUMNS = (
    Column("optimizer", "left"),
    Column("done", drop=3),
    Column("baseline", drop=2),
    Column("test (95 %)"),
    Column("gain (95 %)"),
    Column("verdict", "left"),
    Column("calls", drop=4),
    Column("cost", drop=1),
    Column("time", drop=5),
)


class Grid:
    """Lines in groups, a heading over each, columns aligned over all; fits itself to the width that there is."""

    GAP, INDENT, LEAST = 2, 2, 16  # columns between two columns, before a line, and of the first column

    def __init__(self, columns: Sequence[Column], *, all_done: bool) -> None:
        self._columns = columns
        self._all_done = all_done
        self._groups: dict[str, list[list[Text]]] = {}
        self._ranks: dict[str, list[int]] = {}

    def add(self, heading: str, cells: list[Text], *, rank: int = 0) -> None:
        """A line; those of a lower rank come first in their group, and groups with such lines first of all."""
        self._groups.setdefault(heading, []).append(cells)
        self._ranks.setdefault(heading, []).append(rank)

    def _ordered(self) -> list[tuple[str, list[list[Text]]]]:
        headings = sorted(self._groups, key=lambda heading: min(self._ranks[heading]))
        return [
            (heading, [self._groups[heading][i] for i in sorted(range(len(ranks)), key=ranks.__getitem__)])
            for heading in headings
            if (ranks := self._ranks[heading])
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [line for group in self._groups.values() for line in group]
        widths = [
            max([len(column.name), *(line[i].cell_len for line in lines)]) for i, column in enumerate(self._columns)
        ]
        kept = self._fitting(widths, options.max_width)
        room = options.max_width - self.INDENT - sum(widths[i] + self.GAP for i in kept[1:])
        widths[0] = min(widths[0], max(room, self.LEAST))
        yield self._line([Text(column.name, style="bold") for column in self._columns], kept, widths)
        yield Text(
            "─" * min(options.max_width, self.INDENT + sum(widths[i] + self.GAP for i in kept) - self.GAP), "dim"
        )
        for number, (heading, group) in enumerate(self._ordered()):
            if number:
                yield Text()
            yield Text(heading, style="bold", overflow="fold")
            for cells in group:
                first, *more = folded(cells[0].plain, widths[0])
                yield self._line([Text(first), *cells[1:]], kept, widths)
                yield from (Text(" " * (2 * self.INDENT) + text) for text in more)

    def _fitting(self, widths: Sequence[int], room: int) -> list[int]:
        """The columns that fit beside a first column of the least width; "done" stays while something is not."""
        kept = list(range(len(widths)))
        order = sorted((i for i in kept if self._columns[i].drop), key=lambda i: -self._columns[i].drop)
        while order:
            first = min(widths[0], max(self.LEAST, room // 3))
            if self.INDENT + first + sum(self.GAP + widths[i] for i in kept[1:]) <= room:
                break
            out = order.pop(0)
            if self._columns[out].name != "done" or self._all_done:
                kept.remove(out)
        return kept

    def _line(self, cells: Sequence[Text], kept: Sequence[int], widths: Sequence[int]) -> Text:
        line = Text(" " * self.INDENT, no_wrap=True, overflow="ellipsis")
        for i in kept:
            blank = " " * (widths[i] - cells[i].cell_len)
            parts = (cells[i], blank) if self._columns[i].justify == "left" else (blank, cells[i])
            line.append_text(Text.assemble(*parts, " " * self.GAP))
        line.rstrip()
        return line


def folded(text: str, width: int) -> list[str]:
    """A label in lines of a width, broken after a comma or a colon where there is one.

    >>> folded("few_shot:max_trials=5,surrogate=random", 24)
    ['few_shot:max_trials=5,', 'surrogate=random']
    """
    lines = [""]
    for piece in re.split(r"(?<=[,:])", text):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return [line[i : i + width] for line in lines for i in range(0, max(1, len(line)), width)]


def tasks_table(overview: Row) -> RenderableType:
    """Every task: how it ended, its scores, what it spent, and what changed in the prompt."""
    overview = printable(overview)
    blocks = [block for task in overview["tasks"] for block in (Text(), *_task(task))]
    return Group(_title(overview), *blocks, Text(), *_notes(overview))


def _task(task: Row) -> list[RenderableType]:
    status = Text(f"  {task['status']}", style=STYLES[task["status"]])
    how = [f"stopped: {task['stop_reason']}"] if task["stop_reason"] and not task["error"] else []
    how += [f"{task['attempts']} attempts"] if task["attempts"] > 1 else []
    head = Text.assemble((task["task_id"], "bold"), status, ", ".join(["", *how]))
    links = [
        # on one line however long: a terminal wraps it, a broken address leads nowhere
        Text.assemble(f"  {name:10} ", (url, f"link {url}"), no_wrap=True, overflow="ignore")
        for name, url in task["links"].items()
    ]
    error = [Text(f"  {task['error']['class']}: {task['error']['message']}", style="red")] if task["error"] else []
    if not task["final"]:
        return [head, *error, *([Text(f"  {'paid':10} {_paid(task)}")] if task["attempts"] else []), *links]
    scores = [f"  {split:10} {_change(task, split)}" for split in ("validation", "test")]
    scores.append(f"  {'gain':10} {_interval(task['gain'], signed=True)} on test")
    scores += [f"  {'tokens':10} {_tokens(task)}"] if task["saved"] and not is_unchanged(task) else []
    spent = [f"  {name:10} {_spent(task, key)}" for name, key in (("search", "spent"), ("scoring", "scoring"))]
    spent[0] += f", {duration(number(task['seconds']))}"
    tables = [part for name, table in task["tables"].items() if table["rows"] for part in _own(name, table)]
    warned = [Text(f"  {'warning':10} {warning}", style="yellow") for warning in task["warnings"]]
    return [head, *map(Text, [*scores, *spent]), *warned, *_prompt(task), *tables, *links]


def _tokens(task: Row) -> str:
    """The mean tokens of an answer on test, before and after."""
    before, after = (number(task[which]["tokens"]["test"]) for which in ("initial", "final"))
    low, high = (-100 * number(task["saved"][part]) for part in ("high", "low"))
    return f"{figure(before, '.1f')} to {figure(after, '.1f')} an answer on test ({low:+.0f} % to {high:+.0f} %)"


def _own(name: str, content: Row) -> list[RenderableType]:
    """A table of an optimizer's own."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column, value in zip(content["columns"], content["rows"][0], strict=True):
        table.add_column(escape(column), justify="left" if _is_words(value) else "right")
    for row in content["rows"]:
        table.add_row(*(Text(_value(value)) for value in row))
    return [Text(f"  {name}"), Padding(table, (0, 0, 0, 4))]


def _is_words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and FLOAT not in value)


def _value(value: Any) -> str:
    if isinstance(value, dict) and FLOAT not in value:  # a prompt: how it begins
        text = " ".join(" ".join(value[part] for part in ("system", "user", "output")).split())
        return text if len(text) <= BEGINNING else f"{text[:BEGINNING]}…"
    if isinstance(value, str | int):
        return str(value)
    return figure(number(value), ".1f" if abs(number(value)) >= 10 else ".3f")


def runs_table(overviews: Sequence[Row]) -> RenderableType:
    """A line a run."""
    table = _table()
    for name in ("run", "created", "status", "tasks", "failed", "cost"):
        table.add_column(name, no_wrap=True)
    for overview in map(printable, overviews):
        tasks = overview["tasks"]  # of a run on Modal, perhaps without what its results say
        counts = [task["status"] for task in tasks]
        table.add_row(
            escape(overview["run_id"]),
            escape(str(overview["created"])[:19].replace("T", " ") + " UTC"),
            Text(overview["status"], style=STYLES.get(overview["status"], "yellow")),
            f"{counts.count('completed')}/{len(counts)}",
            str(counts.count("failed")),
            "-" if any(task["paid"] is None for task in tasks) else cost(tasks),
        )
    return table


def _table(title: str = "") -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )


def is_unchanged(task: Row) -> bool:
    """True where the seed prompt is the final one."""
    return bool(task["initial"]["prompt"] == task["final"]["prompt"])


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


def _figures(tasks: Sequence[Row]) -> list[Text]:
    """The cells of a line after the optimizer's name: means over the tasks that are done."""
    done = [task for task in tasks if task["final"]]
    failed = sum(task["status"] == "failed" for task in tasks)
    count = Text(f"{len(done)}/{len(tasks)}", style="red" if failed else "")
    paid = Text(cost(tasks) if any(task["attempts"] for task in tasks) else "")
    at_work = [task for task in tasks if task["status"] == "running"]
    calls = sum(task["paid"]["task_calls"] for task in at_work)
    now = [(f"{failed} failed", "red")] if failed else []
    now += [(f"{len(at_work)} running, {calls:,} calls", "cyan")] if at_work else []
    if not done:
        return [count, Text(), Text(), Text(), Text("; ").join(Text(*part) for part in now), Text(), paid, Text()]
    low, high = _mean(done, "final", "low"), _mean(done, "final", "high")
    # seeds share the test rows, so averaging them does not narrow the interval
    gain = tuple(fmean(number(task["gain"][part]) for task in done) for part in ("mean", "low", "high"))
    unchanged = all(map(is_unchanged, done))
    says = "unchanged" if unchanged else verdict((gain[0], gain[1], gain[2]))
    tokens = "" if unchanged or says in ("better", "worse") else _saved(done)
    mixed = ", mixed code" if _is_mixed(done) else ""
    return [
        count,
        Text(figure(_mean(done, "initial", "mean"), ".3f")),
        Text.assemble((figure(_mean(done, "final", "mean"), ".3f"), "bold"), _span(low, high)),
        Text("" if unchanged else f"{figure(gain[0], '+.3f')}{_around(gain[1], gain[2])}"),
        Text.assemble(
            (says, {"better": "green", "worse": "red"}.get(says, "dim")),
            tokens,
            mixed,
            *[part for said in now for part in ("; ", said)],
        ),
        Text(f"{fmean(task['spent']['logical']['task_calls'] for task in done):,.0f}"),
        paid,
        Text(duration(fmean(number(task["seconds"]) for task in done))),
    ]


def _is_mixed(tasks: Iterable[Row]) -> bool:
    """True where tasks of one cell were decided by different code. Results of old have no mark of theirs."""
    return len({task["code"] for task in tasks if task["code"]}) > 1


def _saved(tasks: Sequence[Row]) -> str:
    """What answers do without now, where the score says nothing: told if it can be told from luck."""
    if not all(task["saved"] for task in tasks):
        return ""
    mean, low = (fmean(number(task["saved"][part]) for task in tasks) for part in ("mean", "low"))
    return f", tokens {-100 * mean:+.0f} %" if low > 0 and mean >= LEAST_SAVED else ""


def _span(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" {low:.2f}-{high:.2f}"


def _around(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" ±{(high - low) / 2:.2f}"


def _mean(tasks: Sequence[Row], which: str, part: str) -> float:
    values = [number(task[which]["scores"]["test"][part]) for task in tasks if task[which]]
    return fmean(values) if values else math.nan


def _title(overview: Row) -> Text:
    tasks = overview["tasks"]
    counts = [task["status"] for task in tasks]
    status = Text(overview["status"], style=STYLES.get(overview["status"], "yellow"))
    words = f", {counts.count('completed')} of {len(counts)} tasks completed"
    failed = counts.count("failed")
    words += f", {failed} failed" if failed else ""
    if overview["status"] == "interrupted":
        begun = sum(task["status"] == "pending" and task["attempts"] > 0 for task in tasks)
        parts = ((begun, "unfinished"), (counts.count("pending") - begun, "not started"))
        words += "".join(f", {count} {word}" for count, word in parts if count)
    probed = overview.get("paid", {}).get("usd_preflight", 0.0)
    words += f", {cost(tasks)}" + (f" and {money(probed)} for the preflight" if probed != 0 else "")
    return Text.assemble((f"run {printable(overview['run_id'])}", "bold"), ": ", status, words)


def _notes(overview: Row) -> list[Text]:
    """What to know when reading the figures."""
    done = [task for task in overview["tasks"] if task["final"]]
    several = len(cells(done)) < len(done)
    notes = ["calls and time: the mean of a task; cost: of all tasks of a line"] if several else []
    mixed = sorted({label(group[0]) for group in cells(done).values() if _is_mixed(group)})
    notes += [f"results of changed code in one cell, and not comparable: {', '.join(mixed)}"] if mixed else []
    lines = [Text(text, style="dim") for text in notes]
    return [*lines, Text(SIMULATED, style="yellow")] if overview["simulated"] else lines


def _failures(failed: Sequence[Row]) -> list[Text]:
    """What tasks failed of, said once where several have it in common; most frequent first."""
    having: dict[tuple[str, str], list[str]] = {}
    for task in failed:
        having.setdefault((task["error"]["class"], task["error"]["message"]), []).append(task["task_id"])
    groups = sorted(having.items(), key=lambda group: -len(group[1]))
    lines = [
        f"{ids[0] if len(ids) == 1 else f'{len(ids)} tasks'}: {kind}: {message}" for (kind, message), ids in groups
    ]
    more = sum(len(ids) for _, ids in groups[MOST_LINES:])
    return [*(Text(printable(line), style="red") for line in lines[:MOST_LINES]), *_more(more)]


def _warnings(tasks: Sequence[Row]) -> list[Text]:
    """What must be known of the figures, said once where several tasks have it in common."""
    having: dict[str, list[str]] = {}
    for task in tasks:
        for warning in task["warnings"]:
            having.setdefault(warning, []).append(task["task_id"])
    lines = [f"{ids[0] if len(ids) == 1 else f'{len(ids)} tasks'}: {warning}" for warning, ids in having.items()]
    more = (
        [f"... and {len(lines) - MOST_LINES} more; see check_results.py --detailed"] if len(lines) > MOST_LINES else []
    )
    return [Text(printable(line), style="yellow") for line in [*lines[:MOST_LINES], *more]]


def _classes(failed: Sequence[Row]) -> list[Text]:
    """A line of the screen for each class of failure, with one of its messages."""
    of_class: dict[str, list[Row]] = {}
    for task in failed:
        of_class.setdefault(task["error"]["class"], []).append(task)
    return [
        Text(
            printable(f"{len(tasks)} failed, {kind}: {tasks[-1]['error']['message']}"),
            style="red",
            no_wrap=True,
            overflow="ellipsis",
        )
        for kind, tasks in sorted(of_class.items(), key=lambda item: -len(item[1]))
    ]


def _more(count: int) -> list[Text]:
    return [Text(f"... and {count} more failed; see check_results.py --detailed", style="red")] if count > 0 else []


def _interval(value: Row | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    sign = "+" if signed else ""
    mean, low, high = (number(value[part]) for part in ("mean", "low", "high"))
    failed = f", {value['failed']} not answered" if value["failed"] else ""
    if math.isnan(mean):
        return f"-{failed}"
    return f"{mean:{sign}.3f} ({low:{sign}.2f} to {high:{sign}.2f}{failed})"


def _change(task: Row, split: str) -> str:
    if not task["final"]:
        return ""
    before, after = (task[which]["scores"][split] for which in ("initial", "final"))
    return f"{figure(number(before['mean']), '.3f')} to {_interval(after)}"


def _spent(task: Row, key: str) -> str:
    return _calls(task[key]["logical"], task[key]["billed"], simulated=task["simulated"])


def _paid(task: Row) -> str:
    """What a task has cost that did not come to its end."""
    return _calls(task["paid"], task["paid"], simulated=task["simulated"])


def _calls(asked: Row, billed: Row, *, simulated: bool) -> str:
    names = (("task_calls", "task"), ("optimizer_calls", "optimizer"), ("judge_calls", "judge"))
    calls = " + ".join(f"{asked[name]:,} {word}" for name, word in names if asked[name] or name == "task_calls")
    tokens = f"{billed['tokens_in']:,} tokens in, {billed['tokens_out']:,} out"
    usd = None if billed["usd"] is None else number(billed["usd"])
    return f"{calls} calls, {tokens}, {money(usd, simulated=simulated)}"


def _prompt(task: Row) -> list[Text]:
    """What changed in the prompt, part by part."""
    initial, final = task["initial"]["prompt"], task["final"]["prompt"]
    if is_unchanged(task):
        return [Text("  prompt     unchanged", style="dim")]
    lines = []
    for part in ("system", "user", "output"):
        after = final[part] if SLOT in initial[part] else final[part].replace(SLOT, "").strip()
        if initial[part].strip() != after:
            lines += [_part("-", part, initial[part], "red"), _part("+", part, final[part], "green")]
    if final["demos"]:
        ids = ", ".join(demo["example_id"] for demo in final["demos"])
        lines.append(_part("+", "demos", f"{len(final['demos'])}: {ids}", "green"))
    return lines


def _part(sign: str, name: str, text: str, style: str) -> Text:
    return Text(f"  {sign} {name:8} " + text.strip().replace("\n", "\n" + " " * 13), style=style)
