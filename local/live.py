"""What somebody sees of a local run while it goes on.

In a terminal: a view that is redrawn in place, without the alternate screen, so that a kill leaves a usable terminal.
It says which cells run, their scores so far, what was spent, what is being waited for, and when it will be done.
Elsewhere: one plain line a change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from utils.archive import Attempt
from utils.records import Progress, Spend, Status, TaskResult, TaskSpec
from utils.report.tables import both_moneys, duration, figure, money, printable

LEAST_NAME = 12  # columns that a name keeps, however narrow the terminal
NOW = 24  # columns for what a cell is doing
FIGURES = 5  # columns for a number
GAP = 2


class Tally:
    """What is known of a run while it goes on; both views read it."""

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        done: dict[str, TaskResult],
        clock: Callable[[], float],
        link: Callable[[str], str] = lambda task_id: "",
        paid: Mapping[str, Spend] = MappingProxyType({}),
    ) -> None:
        self.tasks = tasks
        self.link = link  # to the traces of a task, once they are somewhere
        self.results = dict(done)
        self._paid = dict(paid)  # for tasks that are not done, the calls of all their attempts
        self.running: dict[str, tuple[TaskSpec, Progress, float]] = {}
        self._clock = clock
        self._began = clock()
        self._done_before = len(done)

    def started(self, spec: TaskSpec) -> None:
        self.running[spec.task_id] = (spec, Progress(spec.task_id, "starting"), self._clock())

    def progressed(self, progress: Progress) -> None:
        if progress.task_id in self.running:
            spec, _, began = self.running[progress.task_id]
            self.running[progress.task_id] = (spec, progress, began)
            before = self._paid.get(progress.task_id, Spend())
            # one that was begun again counts from its start: what was paid before stands until it has caught up
            if before.usd is not None and (progress.spent.usd is None or progress.spent.usd > before.usd):
                self._paid[progress.task_id] = progress.spent

    def ended(self, spec: TaskSpec, result: TaskResult | None) -> None:
        self.running.pop(spec.task_id, None)
        if result is not None:
            self.results[spec.task_id] = result

    @property
    def cost(self) -> str:
        """Paid so far, whatever came of the tasks; real money and play money apart."""
        simulated = {spec.task_id: spec.is_simulated for spec in self.tasks}
        paid = {**self._paid, **{task_id: _billed(result) for task_id, result in self.results.items()}}
        amounts: dict[bool, list[float | None]] = {False: [], True: []}
        for task_id, spend in paid.items():
            amounts[simulated[task_id]].append(spend.usd)
        real, play = (None if None in part else sum(usd or 0.0 for usd in part) for part in amounts.values())
        if all(simulated.values()):
            return money(play, simulated=True)
        return both_moneys(real, play)

    @property
    def failed(self) -> int:
        return sum(result.status is Status.FAILED for result in self.results.values())

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end at the pace of this dispatch so far; None before the first task is done."""
        done = len(self.results) - self._done_before
        left = len(self.tasks) - len(self.results)
        if not done:
            return None
        at_work = sum(min(1.0, p.task_calls / max(1, s.budget.task_calls)) for s, p, _ in self.running.values())
        return max(0.0, (self._clock() - self._began) / (done + at_work) * (left - at_work))

    @property
    def waiting_for(self) -> str:
        """What is being waited for, in words."""
        progresses = [progress for _, progress, _ in self.running.values()]
        open_calls = sum(progress.open_calls for progress in progresses)
        waiting = sum(progress.waiting for progress in progresses)
        pause = max((progress.resumes_in_s for progress in progresses), default=0.0)
        words = [f"{open_calls} answers"] if open_calls else []
        if waiting:
            words.append(f"{waiting} calls to be tried again")
        if pause > 0:
            words.append(f"the provider, which asked for a pause: next call in {pause:.0f} s")
        return ", ".join(words) or ("workers" if progresses else "nothing")


class Plain:
    """One line a change: for logs, pipes and CI."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._console = console

    def started(self, spec: TaskSpec, attempt: Attempt) -> None:
        self._tally.started(spec)
        self._say(f"started   {spec.task_id} (attempt {int(attempt.name)})")

    def progressed(self, progress: Progress) -> None:
        self._tally.progressed(progress)

    def finished(self, spec: TaskSpec, result: TaskResult) -> None:
        self._tally.ended(spec, result)
        done = f"[{len(self._tally.results)}/{len(self._tally.tasks)}]"
        self._say(f"{result.status.value:9} {spec.task_id} {done} {ending(result)}")
        if url := self._tally.link(spec.task_id):
            self._say(f"traces    {spec.task_id} {url}")

    def lost(self, spec: TaskSpec, reason: str) -> None:
        self._tally.ended(spec, None)
        self._say(f"stopped   {spec.task_id}: {reason}")

    def noted(self, text: str) -> None:
        self._say(text)

    def tick(self) -> None:
        """Nothing: a log grows by changes only."""

    def close(self) -> None:
        """Nothing to take down."""

    def _say(self, text: str) -> None:
        line = f"{datetime.now():%H:%M:%S} {' '.join(printable(text).split(chr(10)))}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class View(Plain):
    """The same, redrawn in place."""

    def __init__(self, tally: Tally, console: Console, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(tally, console)
        self._title = title
        self._clock = clock
        self._began = clock()
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)
        self._live.start()

    def started(self, spec: TaskSpec, attempt: Attempt) -> None:
        self._tally.started(spec)

    def finished(self, spec: TaskSpec, result: TaskResult) -> None:
        self._tally.ended(spec, result)
        if result.error or result.warnings:
            self._say(f"{result.status.value:9} {spec.task_id} {ending(result)}")

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> RenderableType:
        tally = self._tally
        parts = [
            f"{len(tally.results) - tally.failed}/{len(tally.tasks)} done",
            f"{len(tally.running)} running",
            *([f"[red]{tally.failed} failed[/red]"] if tally.failed else []),
            f"spent {tally.cost}",
            duration(self._clock() - self._began),
            f"ETA {duration(tally.eta_s)}",
        ]
        head = Text.assemble((printable(self._title), "bold"), "  ", Text.from_markup(" · ".join(parts)))
        waiting = Text(f"waiting for: {tally.waiting_for}", style="dim", no_wrap=True, overflow="ellipsis")
        return Group(head, self._cells(), waiting)

    def _cells(self) -> RenderableType:
        """A line a cell, as many as the terminal has room for: those at work come first."""
        grouped: dict[tuple[str, str, str], list[TaskSpec]] = {}
        for spec in self._tally.tasks:
            key = (printable(spec.dataset), printable(spec.optimizer_label), printable(spec.model))
            grouped.setdefault(key, []).append(spec)
        several = len({model for _, _, model in grouped}) > 1
        names = ("dataset", "optimizer", *(["model"] if several else []))
        room = max(
            3, self._console.height - 6
        )  # beside the head, the names of the columns, the last two lines and the cursor's
        shown = list(grouped)
        if len(shown) > room:
            rank = {key: self._rank(specs) for key, specs in grouped.items()}
            shown = sorted(grouped, key=lambda key: rank[key])[: room - 1]
            shown.sort(key=lambda key: (rank[key], list(grouped).index(key)))
        spare = self._console.width - NOW - 2 * FIGURES - GAP * (len(names) + 2)
        width = max(LEAST_NAME, spare // len(names))
        table = Table(header_style="bold", box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        for name in names:
            table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=width)
        for name in ("done", "test"):
            table.add_column(name, no_wrap=True, justify="right", min_width=FIGURES)
        table.add_column("now", no_wrap=True, overflow="ellipsis", min_width=NOW)
        for key in shown:
            table.add_row(*map(escape, key[: len(names)]), *self._cell(grouped[key]))
        if len(shown) == len(grouped):
            return table
        return Group(table, Text(f"... and {len(grouped) - len(shown)} cells more", style="dim"))

    def _rank(self, specs: Sequence[TaskSpec]) -> int:
        """At work, failed, waiting, done: what is shown first."""
        ids = [spec.task_id for spec in specs]
        if any(task_id in self._tally.running for task_id in ids):
            return 0
        results = [self._tally.results[task_id] for task_id in ids if task_id in self._tally.results]
        if any(result.error for result in results):
            return 1
        return 2 if len(results) < len(ids) else 3

    def _cell(self, specs: Sequence[TaskSpec]) -> list[RenderableType]:
        done = [self._tally.results[spec.task_id] for spec in specs if spec.task_id in self._tally.results]
        tests = [result.final.scores["test"].mean for result in done if result.final]
        running = [self._tally.running[spec.task_id] for spec in specs if spec.task_id in self._tally.running]
        failed = sum(result.error is not None for result in done)
        style = "red" if failed else "green" if len(done) == len(specs) else "cyan" if running else "dim"
        now = [Text(f"{failed} failed")] if failed else []
        now += [self._linked(spec, _now(spec, progress)) for spec, progress, _ in running]
        return [
            Text(f"{len(done) - failed}/{len(specs)}", style=style),
            figure(math.fsum(tests) / len(tests), ".3f") if tests else "",
            Text("; ", style="red" if failed and not running else "").join(now),
        ]

    def _linked(self, spec: TaskSpec, words: str) -> Text:
        """Words that lead to the traces of a task, where there are any."""
        url = self._tally.link(spec.task_id)
        return Text(words, style=f"link {url}" if url else "")


def ending(result: TaskResult) -> str:
    """What came of a task, on one line."""
    if result.error:
        return f"{result.error.kind}: {result.error.message}"
    if result.initial is None or result.final is None:
        return ""
    before, after = result.initial.scores["test"], result.final.scores["test"]
    cost = money(_billed(result).usd, simulated=result.simulated)
    figures = f"test {figure(before.mean, '.3f')} to {figure(after.mean, '.3f')}, {cost}, {duration(result.seconds)}"
    return "; ".join([figures, *result.warnings])


def _billed(result: TaskResult) -> Spend:
    return result.spent.billed + result.scoring.billed


def _now(spec: TaskSpec, progress: Progress) -> str:
    is_searching = progress.phase == "optimizing"
    words = f"s{spec.seed} " + (f"{progress.task_calls}/{spec.budget.task_calls}" if is_searching else progress.phase)
    return words + (f", best {progress.best:.3f}" if progress.best is not None else "")
