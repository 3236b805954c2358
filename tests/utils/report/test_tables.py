"""Tables: texts of rows and models are shown, never obeyed; what is unknown is a dash, not a number."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from rich.text import Text

from tests.strategies import json_values, texts
from tests.utils.report.runs import HOSTILE, done, failed, nan_result, spec
from utils.prompt import Prompt
from utils.records import Interval, Table, TaskResult, TaskSpec
from utils.report.overview import paid_by, run_status, task_row
from utils.report.tables import (
    Screenful,
    cells,
    duration,
    money,
    number,
    printable,
    results,
    runs_table,
    tasks_table,
    verdict,
    watched,
)
from utils.serialization import encode

A, B = spec(1), spec(2)


def overview(*tasks: tuple[TaskSpec, TaskResult | None], **more: Any) -> dict[str, Any]:
    rows = [task_row(task, encode(result) if result else None) for task, result in tasks]
    base = {
        "run_id": "r",
        "created": "2026-01-02T03:04:05+00:00",
        "status": run_status(rows, stopped=True),
        "simulated": any(row["simulated"] for row in rows),
        "versions": {},
        "tasks": rows,
    }
    return {**base, **more}


def shown(what: RenderableType, width: int = 160, *, styled: bool = False) -> str:
    """What a terminal, or a file, would get, in bytes that are UTF-8."""
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    Console(file=stream, width=width, force_terminal=styled, color_system="truecolor" if styled else None).print(what)
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]


HOSTILE_TASK = spec(dataset=HOSTILE, optimizer=HOSTILE, model=f"m/{HOSTILE}", optimizer_params={HOSTILE: HOSTILE})
HOSTILE_RUN = overview(
    (HOSTILE_TASK, done(HOSTILE_TASK, system=HOSTILE)),
    (replace(HOSTILE_TASK, seed=2), failed(HOSTILE_TASK, HOSTILE)),
    run_id=HOSTILE,
    created=HOSTILE,
)


@pytest.mark.parametrize(
    "table", [results, tasks_table, lambda run: runs_table([run])], ids=["results", "tasks", "runs"]
)
def test_text_of_rows_and_models_is_shown_and_not_obeyed(table: Any) -> None:
    text = shown(table(HOSTILE_RUN), width=1000)
    assert "[red]bold[/red]" in text
    assert not [character for character in text if ord(character) < 32 and character != "\n"]
    styled = shown(table(HOSTILE_RUN), width=1000, styled=True)
    assert "\x1b[2J" not in styled
    assert "\x1b]" not in styled


@given(texts)
def test_any_prompt_can_be_shown(text: str) -> None:
    changed = done(A, system=text)
    assert shown(tasks_table(overview((A, changed))))


@given(json_values)
def test_printable_text_is_utf8_without_control_characters_and_numbers_stay(value: object) -> None:
    cleaned = printable({"x": value})
    repr(cleaned).encode("utf-8")
    if isinstance(value, int | float | None):
        assert repr(cleaned["x"]) == repr(value)


def test_printable_text_keeps_lines_and_letters() -> None:
    assert printable("a\n\té 😀 “x”") == "a\n\té 😀 “x”"
    assert printable(["\x1b", {"\x07": "\ud83d"}]) == ["�", {"�": "�"}]


@pytest.mark.parametrize(
    "table", [results, tasks_table, lambda run: runs_table([run])], ids=["results", "tasks", "runs"]
)
def test_what_is_not_known_is_a_dash(table: Any) -> None:
    text = shown(table(overview((A, nan_result(A)))))
    assert "nan" not in text.replace("finance", "")


def test_a_task_that_is_not_done_has_no_figures() -> None:
    text = shown(results(overview((A, None), (B, failed(B)))))
    assert "0/2" in text
    assert "0.000" not in text


def test_seeds_share_a_line_and_variants_do_not() -> None:
    variant = spec(optimizer_params={"k": 1})
    grouped = cells([task_row(task) for task in (A, B, variant)])
    assert {key[2]: len(rows) for key, rows in grouped.items()} == {"few_shot": 2, "few_shot:k=1": 1}


def test_the_best_comes_first_and_the_unfinished_last() -> None:
    tasks = {name: spec(optimizer=name) for name in ("worst", "best", "unended", "middle")}
    scores = {"worst": 0.3, "best": 0.8, "middle": 0.5}
    run = overview(
        *((task, done(task, after=scores[name]) if name in scores else None) for name, task in tasks.items())
    )
    text = shown(results(run))
    assert sorted(tasks, key=text.index) == ["best", "middle", "worst", "unended"]


def test_every_error_is_named_up_to_eight() -> None:
    tasks = [spec(seed) for seed in range(10)]
    text = shown(results(overview(*((task, failed(task, f"reason {task.seed}.")) for task in tasks))))
    assert [f"reason {seed}." in text for seed in range(10)] == [True] * 8 + [False] * 2
    assert "2 more failed" in text


def test_what_must_be_known_of_a_result_stands_under_the_table_and_beside_its_task() -> None:
    warned = [replace(done(task), warnings=("edits failed 12 of 20 (malformed)",)) for task in (A, B)]
    alone = replace(done(A), warnings=("edits failed 1 of 20 (transient)",))
    assert f"{A.task_id}: edits failed 1 of 20 (transient)" in shown(results(overview((A, alone), (B, done(B)))))
    both = overview((A, warned[0]), (B, warned[1]))
    assert "2 tasks: edits failed 12 of 20 (malformed)" in shown(results(both))
    assert shown(tasks_table(both)).count("warning    edits failed 12 of 20 (malformed)") == 2


def test_of_many_warnings_the_first_eight_are_shown() -> None:
    tasks = [spec(seed) for seed in range(10)]
    warned = ((task, replace(done(task), warnings=(f"edits failed {task.seed} of 20.",))) for task in tasks)
    text = shown(results(overview(*warned)))
    assert [f"edits failed {seed} of 20." in text for seed in range(10)] == [True] * 8 + [False] * 2
    assert "... and 2 more; see check_results.py --detailed" in text


def test_a_result_of_before_there_were_warnings_has_none() -> None:
    old = encode(done(A))
    del old["warnings"]
    row = task_row(A, old)
    assert row["warnings"] == []


def test_a_simulated_result_says_so() -> None:
    task = spec(model="sim/standard")
    for table in (results, tasks_table):
        assert "simulated" in shown(table(overview((task, done(task)))))
        assert "simulated" not in shown(table(overview((A, done(A)))))


def test_what_changed_in_the_prompt_is_shown_line_by_line() -> None:
    text = shown(tasks_table(overview((A, done(A, system="Think\nhard.")))))
    assert "Answer." in text
    assert "Think\n" in text
    assert "hard." in text
    assert "unchanged" in shown(tasks_table(overview((A, done(A, system="Answer.")))))


@pytest.mark.parametrize("width", [20, 40, 80, 300])
def test_a_table_fits_any_terminal(width: int) -> None:
    run = overview((A, done(A)), (spec(optimizer="x" * 60), done(spec(optimizer="x" * 60))))
    for table in (results(run), tasks_table(run), runs_table([run])):
        assert max(map(len, shown(table, width).splitlines())) <= width


def test_tasks_that_failed_of_the_same_share_a_line() -> None:
    tasks = [spec(seed) for seed in range(12)]
    text = shown(results(overview(*((task, failed(task, "no" if task.seed else "other")) for task in tasks))))
    assert "11 tasks: auth: no" in text
    assert f"{tasks[0].task_id}: auth: other" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_a_watched_run_keeps_its_head_on_the_screen_and_shows_first_what_is_at_work(width: int, height: int) -> None:
    cells = [spec(dataset=f"set{n}", optimizer=f"optimizer{m}") for n in range(6) for m in range(11)]
    run = overview(*((task, done(task)) for task in cells))
    for row in run["tasks"][-3:]:
        row.update(task_row(cells[-1]), dataset="set5", status="running", optimizer=row["optimizer"], attempts=1)
        row["paid"] = {**row["paid"], "task_calls": 70, "usd": 0.5}
    for row in run["tasks"][:20]:
        row.update(error={"class": "auth", "message": "refused"}, status="failed", final=None)
    run["status"] = "running"
    stream = io.StringIO()
    Console(file=stream, width=width, height=height, force_terminal=True).print(Screenful(watched(run, 90.0), 3))
    lines = stream.getvalue().splitlines()
    assert len(lines) <= height - 3
    text = "\n".join(Text.from_ansi(line).plain for line in lines)
    assert text.startswith("run r: running, 43 of 66 tasks completed, 20 failed")
    assert "3 running, 0 waiting, ETA 1:30" in text
    assert "20 failed, auth: refused" in text
    assert "1 running, 70 calls" in text
    assert re.search(r"\.\.\. and \d+ lines more", lines[-1])


# --------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("usd", "text"), [(None, "$?"), (0.0, "$0.00"), (0.0012, "$0.0012"), (1234.5, "$1,234.50"), (1e-6, "<$0.0001")]
)
def test_money_has_the_digits_it_needs_and_is_never_rounded_to_nothing(usd: float | None, text: str) -> None:
    assert money(usd) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (math.nan, "-"), (0, "0.0s"), (61, "1:01"), (3599.7, "1:00:00"), (7384, "2:03:04")],
)
def test_a_time_is_read_at_a_glance(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_missing_number_is_no_zero() -> None:
    assert math.isnan(number(None))
    assert math.isnan(number({"$float": "nan"}))
    assert number(0) == 0


def test_one_unknown_price_makes_the_total_unknown() -> None:
    row = task_row(A, encode(done(A)))
    unknown = {**row, "paid": {**row["paid"], "usd": None}}
    assert paid_by([row, unknown], simulated=False) is None
    assert paid_by([row, task_row(B)], simulated=False) == pytest.approx(0.25)
    assert paid_by([unknown], simulated=True) == 0, "there is no task of that kind"


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        ((0.2, 0.1, 0.3), "better"),
        ((-0.2, -0.3, -0.1), "worse"),
        ((0.1, 0.0, 0.2), "not detectable"),
        ((0.1, -0.1, 0.3), "not detectable"),
        ((math.nan, math.nan, math.nan), ""),
    ],
)
def test_a_verdict_says_no_more_than_the_interval(gain: tuple[float, float, float], says: str) -> None:
    assert verdict(gain) == says


@given(st.floats(0, 1e6))
def test_every_amount_above_nothing_looks_like_something(usd: float) -> None:
    assert (money(usd) in ("$0.00", "$0.0000")) == (usd == 0)


def frugal(task: TaskSpec, saved: Interval) -> TaskResult:
    """A task whose score did not change and whose answers did."""
    result = done(task, 0.5, 0.5)
    assert result.initial
    assert result.final
    return replace(
        result,
        saved=saved,
        initial=replace(result.initial, tokens={"validation": 98.0, "test": 100.0}),
        final=replace(result.final, tokens={"validation": 19.0, "test": 20.0}),
        tables={
            "columns": Table(("on", "final acc"), (("validation", 0.5), ("test", math.nan))),
            "pareto": Table(("tokens", "text"), ((20.0, Prompt("Short. " * 30)), (100.0, Prompt(HOSTILE)))),
        },
    )


def test_the_verdict_tells_saved_tokens_where_the_score_says_nothing() -> None:
    for saved, says in (
        (Interval(0.8, 0.7, 0.9, 20, 0), "not detectable, tokens -80 %"),
        (Interval(-2.0, -3.0, -1.0, 20, 0), "not detectable "),
        (Interval(0.8, -0.1, 1.7, 20, 0), "not detectable "),
        (Interval(0.02, 0.01, 0.03, 20, 0), "not detectable "),
    ):
        line = next(line for line in shown(results(overview((A, frugal(A, saved))))).splitlines() if "few_shot" in line)
        assert says in f"{line} "
        assert ("tokens" in line) is ("tokens" in says)


def test_details_show_tokens_and_the_tables_of_an_optimizer() -> None:
    text = shown(tasks_table(overview((A, frugal(A, Interval(0.8, 0.7, 0.9, 20, 0))))))
    assert "tokens     100.0 to 20.0 an answer on test (-90 % to -70 %)" in text
    assert "final acc" in text
    assert re.search(r"\n +test +-\s", text), "a figure that there is not is a dash"
    assert "Short. Short." in text
    assert "\x1b[2J" not in text


def test_a_result_of_a_version_without_tokens_and_tables_is_shown_as_it_was() -> None:
    old = encode(done(A))
    for key in ("saved", "tables"):
        del old[key]
    for which in ("initial", "final"):
        del old[which]["tokens"]
    run = {**overview((A, done(A))), "tasks": [task_row(A, old)]}
    assert "0.750" in shown(results(run))
    assert "tokens  " not in shown(tasks_table(run))


def test_a_cell_of_two_programs_is_marked() -> None:
    def of(*codes: str) -> str:
        tasks = [spec(seed) for seed in range(len(codes))]
        return shown(
            results(
                overview(*((task, replace(done(task), code=code)) for task, code in zip(tasks, codes, strict=True)))
            )
        )

    assert "mixed code" in of("a", "b")
    assert "results of changed code in one cell, and not comparable: few_shot" in of("a", "b")
    for codes in (("a", "a"), ("", "a")):
        assert "mixed" not in of(*codes)
        assert "changed code" not in of(*codes)
