"""The scoreboard: what is kept is not run again, what the figures mean, and that the page is assembled."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark_config import OPTIMIZERS
from tests.performance import scoreboard
from tests.performance.scoreboard import NULL, PAGE, SECTIONS, STANDARD, Cell, Outcome

CELLS = [Cell("no_op", STANDARD, 0, seed, 200) for seed in (1, 2)]


def outcome(
    name: str, instance: int, true: float, seed: int = 1, model: str = STANDARD, gained: bool = False
) -> Outcome:
    return Outcome(Cell(name, model, instance, seed, 600), true, 0.1, 0.6, 0.9, 500, gained, "budget_calls", 0.1)


def test_what_was_done_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "build" / "kept.jsonl"
    first = list(scoreboard.outcomes(CELLS, 1, kept))
    with kept.open("a") as file:
        file.write('{"key": "cut o')
    monkeypatch.setattr(scoreboard, "run", lambda cell: pytest.fail("run again"))
    assert sorted(scoreboard.outcomes(CELLS, 1, kept), key=lambda one: one.cell.seed) == sorted(
        first, key=lambda one: one.cell.seed
    )


def test_a_cell_whose_code_or_parameters_changed_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("hill_climb", STANDARD, 0, 1, 600)
    before = scoreboard.key(cell)
    assert scoreboard.key(replace(cell, seed=2)) != before
    changed = {**OPTIMIZERS, "hill_climb": replace(OPTIMIZERS["hill_climb"], batch_size=5)}
    monkeypatch.setattr(scoreboard, "OPTIMIZERS", changed)
    assert scoreboard.key(cell) != before
    monkeypatch.undo()
    monkeypatch.setattr(scoreboard, "code_of", lambda name: "edited")
    assert scoreboard.key(cell) != before


def test_no_op_gains_nothing_and_uses_one_evaluation() -> None:
    found = scoreboard.run(CELLS[0])
    assert found.true == found.start < found.best < found.best_with_demos
    assert (found.calls, found.gained, found.stop) == (100, False, "exhausted")


def test_a_row_is_the_mean_over_instances_of_means_over_seeds() -> None:
    found = [outcome("hill_climb", 0, 0.6), outcome("hill_climb", 1, 0.1), outcome("hill_climb", 1, 0.3, seed=2)]
    (row,) = scoreboard.rows_of(found)
    assert (row.instances, row.seeds) == (2, 2)
    assert row.true == pytest.approx(0.4)
    assert row.error == pytest.approx(0.2)  # of .6 and .2
    assert row.share == pytest.approx((1 + 0.2) / 2)
    assert row.share_with_demos == pytest.approx((5 / 8 + 1 / 8) / 2)


def test_the_page_says_how_large_the_measurement_was() -> None:
    small = scoreboard.rows_of([outcome("no_op", n, 0.2) for n in range(3)])
    large = [replace(small[0], optimizer="hill_climb", instances=20, seeds=3, budget=budget) for budget in (600, 1500)]
    assert scoreboard.size_of([*small, *large]) == (
        "3 instances x 1 seed at 600 task calls; 20 instances x 3 seeds at 600 and 1,500 task calls"
    )


def test_wins_are_counted_by_instance_and_a_tie_is_half() -> None:
    found = [outcome("hill_climb", n, true) for n, true in enumerate((0.5, 0.4, 0.3, 0.2))]
    found += [outcome("random_paraphrase", n, 0.3) for n in range(3)]
    row = next(row for row in scoreboard.rows_of(found) if row.optimizer == "hill_climb")
    assert row.wins == {"random_paraphrase": "2.5 of 3"}


def test_null_instances_are_counted_apart() -> None:
    found = [outcome("no_op", n, 0.5, model=NULL, gained=n == 2) for n in range(4)]
    assert scoreboard.rows_of(found) == []
    (luck,) = scoreboard.luck_of(found)
    assert (luck.gains, luck.runs) == (1, 4)


def test_results_replace_earlier_ones_of_the_same_optimizer_and_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoreboard, "RESULTS", tmp_path / "scoreboard.json")
    both = scoreboard.rows_of([outcome("no_op", 0, 0.2), outcome("hill_climb", 0, 0.3)])
    scoreboard.save(both, [])
    (better,) = scoreboard.rows_of([outcome("hill_climb", 0, 0.5)])
    scoreboard.save([better], [])
    rows, _ = scoreboard.load()
    assert [(row.optimizer, row.true) for row in rows] == [("no_op", 0.2), ("hill_climb", 0.5)]
    assert "0.200" in scoreboard.page()


def test_the_page_is_assembled_from_the_sections() -> None:
    assert PAGE.read_text(encoding="utf-8") == scoreboard.page(), "`make docs` assembles it anew"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_a_section(name: str) -> None:
    section = (SECTIONS / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^#+ .*", section, re.MULTILINE)[0] == f"## `{name}`"
    assert section.count(scoreboard.STANDING) == 1
