"""Whole runs on a virtual clock: whatever befalls them, they end as on a good day.

The simulation needs a process of its own, whose clocks and disk it takes over; it does all jobs of this file at once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS, POINTS, PAIRS = "seeds:0-199", "points:3", "pairs:2000"
MODAL = "modal:0-79"
TRACES = ("trace:17", "modal-trace:17")
MUTANTS = (
    "mutant:line_after_use",
    "mutant:result_before_details",
    "mutant:claim_not_released",
    "modal-mutant:submission_over_another",
    "modal-mutant:never_superseded",
    "modal-mutant:result_not_committed",
    "modal-mutant:calls_not_written_down",
)


def simulated(*jobs: str) -> str:
    """What the simulation says of these jobs."""
    command = [sys.executable, "-m", "tests.simulation", *jobs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return "\n" + done.stdout


@pytest.fixture(scope="module")
def said() -> str:
    return simulated(SEEDS, POINTS, PAIRS, MODAL, *MUTANTS, *TRACES)


@pytest.fixture(scope="module")
def said_again() -> str:
    return simulated(*TRACES, *TRACES)


def about(job: str, said: str) -> str:
    """The lines of one job, and how to see again what they tell."""
    lines = said.splitlines()
    return "\n".join("\n".join(lines[i : i + 2]) for i, line in enumerate(lines) if line.startswith(f"{job}: "))


def traces(job: str, said: str) -> list[str]:
    """The schedules that it traced."""
    return [told.partition("the end\n")[0] for told in said.split(f"\n{job}\n")[1:]]


@pytest.mark.parametrize("job", [SEEDS, POINTS, PAIRS, MODAL])
def test_a_run_ends_as_on_a_good_day_whatever_befalls_it(job: str, said: str) -> None:
    assert f"{job}: " in said
    assert ", 0 broken" in about(job, said), about(job, said)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_fault_that_is_put_in_is_found(mutant: str, said: str) -> None:
    assert "found by" in about(mutant, said), about(mutant, said)


@pytest.mark.parametrize("job", TRACES)
def test_a_seed_is_a_schedule_to_the_last_operation(job: str, said: str, said_again: str) -> None:
    first, second = traces(job, said_again)
    assert first == second
    assert first.count("\n") > 50
    assert [first] == traces(job, said), "in another process, too, after other schedules"


@pytest.mark.trial
@pytest.mark.parametrize("first", range(200, 20_200, 1000))
def test_20_000_seeds(first: int) -> None:
    job = f"seeds:{first}-{first + 999}"
    said = simulated(job)
    assert ", 0 broken" in about(job, said), about(job, said)


@pytest.mark.trial
def test_a_dispatcher_that_does_not_look_back_is_found() -> None:
    assert "found by" in simulated("modal-mutant:no_look_back")


@pytest.mark.trial
@pytest.mark.parametrize("first", range(80, 10_080, 1000))
def test_10_000_seeds_on_modal(first: int) -> None:
    job = f"modal:{first}-{first + 999}"
    said = simulated(job)
    assert ", 0 broken" in about(job, said), about(job, said)


@pytest.mark.trial
@pytest.mark.parametrize("job", ["points", "pairs"])
def test_each_crash_point_and_each_pair_of_them(job: str) -> None:
    said = simulated(job)
    assert ", 0 broken" in about(job, said), about(job, said)
