"""What somebody sees of a local run while it goes on.

In a terminal: a view that is redrawn in place, without the alternate screen, so that a kill leaves a usable terminal.
It says which cells run, their scores so far, what was spent, what is being waited for, and when it will be done.
Elsewhere: one plain line a change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from utils.archive import Attempt
from utils.records import Progress, Status, TaskResult, TaskSpec
from utils.report.tables import duration, money

SHOWN_CELLS = 24  # lines of the view; a large grid shows the cells that are at work


class Tally:
    """What is known of a run while it goes on; both views read it."""

    def __init__(self, tasks: Sequence[TaskSpec], done: dict[str, TaskResult], clock: Callable[[], float]) -> None:
        self.tasks = tasks
        self.results = dict(done)
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

    def ended(self, spec: TaskSpec, result: TaskResult | None) -> None:
        self.running.pop(spec.task_id, None)
        if result is not None:
            self.results[spec.task_id] = result

    @property
    def usd(self) -> float | None:
        """Paid so far, by finished and running tasks; None where a price is unknown."""
        amounts = [part for result in self.results.values() for part in (result.spent, result.scoring)]
        known = [part.billed.usd for part in amounts] + [p.spent.usd for _, p, _ in self.running.values()]
        return None if any(usd is None for usd in known) else sum(usd or 0.0 for usd in known)

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
        open_calls = sum(progress.open_calls for _, progress, _ in self.running.values())
        waiting = sum(progress.waiting for _, progress, _ in self.running.values())
        pause = max((progress.resumes_in_s for _, progress, _ in self.running.values()), default=0.0)
        words = [f"{open_calls} calls open"] if open_calls else []
        if waiting:
            words.append(f"{waiting} in back-off")
        if pause > 0:
            words.append(f"provider asked to wait, next call in {pause:.0f} s")
        return ", ".join(words) or "nothing"


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
        line = f"{datetime.now():%H:%M:%S} {text}"
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
        if result.error:
            self._say(f"failed    {spec.task_id} {ending(result)}")

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> RenderableType:
        tally = self._tally
        parts = [
            f"{len(tally.results)}/{len(tally.tasks)} done",
            f"{len(tally.running)} running",
            *([f"[red]{tally.failed} failed[/red]"] if tally.failed else []),
            f"spent {money(tally.usd)}",
            duration(self._clock() - self._began),
            f"ETA {duration(tally.eta_s)}",
        ]
        head = Text.from_markup(f"[bold]{escape(self._title)}[/bold]  " + " · ".join(parts))
        return Group(head, self._cells(), Text(f"waiting for: {tally.waiting_for}", style="dim"))

    def _cells(self) -> Table:
        table = Table(header_style="bold", pad_edge=False)
        for name in ("dataset", "optimizer", "model", "done", "test", "now"):
            table.add_column(name, no_wrap=name != "now")
        grouped: dict[tuple[str, str, str], list[TaskSpec]] = {}
        for spec in self._tally.tasks:
            grouped.setdefault((spec.dataset, spec.optimizer_label, spec.model), []).append(spec)
        busy = [key for key, specs in grouped.items() if any(spec.task_id in self._tally.running for spec in specs)]
        shown = list(grouped) if len(grouped) <= SHOWN_CELLS else busy[:SHOWN_CELLS]
        for key in shown:
            table.add_row(*map(escape, key), *self._cell(grouped[key]))
        if len(shown) < len(grouped):
            table.add_row(f"... {len(grouped) - len(shown)} cells more", *[""] * 5)
        return table

    def _cell(self, specs: Sequence[TaskSpec]) -> list[RenderableType]:
        done = [self._tally.results[spec.task_id] for spec in specs if spec.task_id in self._tally.results]
        tests = [result.final.scores["test"].mean for result in done if result.final]
        running = [self._tally.running[spec.task_id] for spec in specs if spec.task_id in self._tally.running]
        style = "green" if len(done) == len(specs) else "cyan" if running else "dim"
        return [
            Text(f"{len(done)}/{len(specs)}", style=style),
            f"{math.fsum(tests) / len(tests):.3f}" if tests else "",
            "; ".join(_now(spec, progress) for spec, progress, _ in running),
        ]


def ending(result: TaskResult) -> str:
    """What came of a task, on one line."""
    if result.error:
        return f"{result.error.kind}: {result.error.message}"
    if result.initial is None or result.final is None:
        return ""
    before, after = result.initial.scores["test"], result.final.scores["test"]
    usd = (result.spent.billed + result.scoring.billed).usd
    return f"test {before.mean:.3f} to {after.mean:.3f}, {money(usd)}, {duration(result.seconds)}"


def _now(spec: TaskSpec, progress: Progress) -> str:
    words = f"s{spec.seed} {progress.phase}"
    if progress.phase == "optimizing":
        words += f" {progress.task_calls}/{spec.budget.task_calls}"
    return words + (f", best {progress.best:.3f}" if progress.best is not None else "")
