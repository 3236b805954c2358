"""What is seen of a run while it goes on: the figures, and that nothing shown can be obeyed."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from local.live import Plain, Tally, View, ending
from tests.utils.report.runs import HOSTILE, done, failed, nan_result, spec
from utils.archive import Attempt
from utils.records import Budget, Progress, Spend, TaskSpec

TASKS = [spec(seed, budget=Budget(100)) for seed in range(4)]
FIRST = Attempt(TASKS[0].task_id, 1, "001")


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def tally(tasks: list[TaskSpec] = TASKS, **more: Any) -> tuple[Tally, Clock]:
    clock = Clock()
    return Tally(tasks, more.get("done", {}), clock), clock


def terminal(width: int = 100, height: int = 30) -> Console:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
    return Console(file=stream, width=width, height=height, force_terminal=True, color_system="truecolor", _environ={})


def written(console: Console) -> str:
    console.file.flush()
    return console.file.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]


def drawn(console: Console, view: View) -> str:
    """The view as one frame, on a console of the same size that nothing else writes to."""
    apart = terminal(console.width, console.height)
    apart.print(view._draw())
    return written(apart)


# --------------------------------------------------------------------------- figures


def test_before_the_first_task_is_done_nobody_knows_the_end() -> None:
    assert tally()[0].eta_s is None


def test_the_end_is_told_at_the_pace_so_far() -> None:
    books, clock = tally()
    books.started(TASKS[0])
    clock.now += 10
    books.ended(TASKS[0], done(TASKS[0]))
    assert books.eta_s == pytest.approx(30)
    books.started(TASKS[1])
    books.progressed(Progress(TASKS[1].task_id, "optimizing", task_calls=50))
    assert books.eta_s == pytest.approx(10 / 1.5 * 2.5)


def test_what_was_done_before_tells_nothing_of_the_pace() -> None:
    books, clock = tally(done={TASKS[0].task_id: done(TASKS[0])})
    clock.now += 10
    assert books.eta_s is None
    books.ended(TASKS[1], done(TASKS[1]))
    assert books.eta_s == pytest.approx(20)


def test_the_cost_is_that_of_finished_and_running_tasks() -> None:
    books, _ = tally()
    books.ended(TASKS[0], done(TASKS[0]))
    books.started(TASKS[1])
    books.progressed(Progress(TASKS[1].task_id, "optimizing", spent=Spend(usd=0.5)))
    assert books.cost == "$0.7500"
    books.progressed(Progress(TASKS[1].task_id, "optimizing", spent=Spend(usd=None)))
    assert "?" in books.cost


def test_what_earlier_attempts_paid_counts_until_a_task_has_caught_up_and_after_it_is_lost() -> None:
    task_id = TASKS[1].task_id
    books = Tally(TASKS, {}, Clock(), paid={task_id: Spend(usd=0.5)})
    assert books.cost == "$0.5000"
    books.started(TASKS[1])
    for spent, shown in ((0.25, "$0.5000"), (0.75, "$0.7500")):
        books.progressed(Progress(task_id, "optimizing", spent=Spend(usd=spent)))
        assert books.cost == shown
    books.ended(TASKS[1], None)
    assert books.cost == "$0.7500"


def test_play_money_says_so() -> None:
    task = spec(model="sim/standard")
    books, _ = tally([task])
    books.ended(task, done(task))
    assert books.cost.startswith("sim$")


def test_progress_of_a_task_that_has_ended_is_too_late() -> None:
    books, _ = tally()
    books.started(TASKS[0])
    books.ended(TASKS[0], done(TASKS[0]))
    books.progressed(Progress(TASKS[0].task_id, "scoring"))
    assert books.running == {}


def test_failures_are_counted_among_what_is_done() -> None:
    books, _ = tally()
    books.ended(TASKS[0], failed(TASKS[0]))
    books.ended(TASKS[1], None)
    assert (books.failed, len(books.results)) == (1, 1)


def test_a_pause_that_the_provider_asked_for_is_said() -> None:
    books, _ = tally()
    assert books.waiting_for == "nothing"
    books.started(TASKS[0])
    books.progressed(Progress(TASKS[0].task_id, "optimizing", open_calls=3, waiting=2, resumes_in_s=7.0))
    for part in ("3", "2", "7 s"):
        assert part in books.waiting_for


# --------------------------------------------------------------------------- lines


def lines_of(*, hostile: bool = False) -> list[str]:
    task = replace(TASKS[0], model=f"m/{HOSTILE}", dataset=HOSTILE) if hostile else TASKS[0]
    console = terminal(width=60)
    plain = Plain(tally([task])[0], console)
    message = f"first line\nsecond {HOSTILE}" if hostile else "refused"
    plain.started(task, FIRST)
    plain.progressed(Progress(task.task_id, HOSTILE))
    plain.tick()
    plain.lost(task, message)
    plain.noted(message)
    plain.finished(task, failed(task, message))
    plain.finished(task, replace(done(task), warnings=(message,)))
    plain.close()
    return written(console).splitlines()


def test_a_change_is_one_line() -> None:
    lines = lines_of()
    assert [line.split()[1] for line in lines] == ["started", "stopped", "refused", "failed", "completed"]
    assert "auth: refused" in lines[3]
    assert "test 0.500 to 0.750" in lines[4]
    assert lines[4].endswith("; refused"), "what must be known of the figures"


def test_a_line_holds_no_code_that_a_terminal_would_obey() -> None:
    lines = lines_of(hostile=True)
    assert len(lines) == 5
    assert not [character for line in lines for character in line if ord(character) < 32]
    assert "[red]bold[/red]" in lines[2]


def test_a_result_of_which_nothing_is_known_has_no_number() -> None:
    assert "nan" not in ending(nan_result(TASKS[0]))


# --------------------------------------------------------------------------- the view


def test_the_view_shows_what_is_done_and_what_runs() -> None:
    console = terminal()
    books, clock = tally()
    view = View(books, console, "run r", clock)
    view.started(TASKS[0], FIRST)
    view.progressed(Progress(TASKS[0].task_id, "optimizing", task_calls=7, best=0.625))
    view.finished(TASKS[1], done(TASKS[1]))
    text = drawn(console, view)
    view.close()
    for part in ("run r", "1/4", "7/100", "0.625", "0.750"):
        assert part in text


def test_the_view_obeys_no_name() -> None:
    task = replace(TASKS[0], dataset=HOSTILE, optimizer=HOSTILE, model=f"m/{HOSTILE}")
    console = terminal(width=400)
    books, clock = tally([task, replace(task, model="other")])
    view = View(books, console, HOSTILE, clock)
    view.started(task, FIRST)
    view.progressed(Progress(task.task_id, "loading"))
    text = drawn(console, view)
    view.finished(task, failed(task, HOSTILE))
    view.close()
    assert "[red]bold[/red]" in text
    assert "\x1b[2J" not in text + written(console)
    assert "\x1b]0" not in text + written(console)


@pytest.mark.parametrize("height", [8, 20])
def test_a_large_grid_fits_the_terminal_and_shows_what_is_at_work(height: int) -> None:
    grid = [spec(optimizer=f"optimizer{i:02}") for i in range(60)]
    console = terminal(width=80, height=height)
    books, clock = tally(grid)
    view = View(books, console, "run r", clock)
    view.started(grid[50], FIRST)
    text = drawn(console, view)
    view.close()
    assert "optimizer50" in text
    assert len(text.splitlines()) <= height
    assert "more" in text


def test_a_view_that_is_closed_leaves_a_usable_terminal() -> None:
    console = terminal()
    books, clock = tally()
    View(books, console, "run r", clock).close()
    text = written(console)
    assert text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l")  # the cursor is shown again
    assert "\x1b[?1049h" not in text  # no alternate screen
