"""What can be asked of the simulation: jobs on the command line, each a set of schedules.

    seeds:0-199      a schedule for each seed
    points           one grid of one task, stopped at each of its crash points in turn
    pairs, pairs:50  the same at each pair of them, or at each fiftieth pair
    crash:7.torn.power+40.lost.process
                     one of these again
    mutant:NAME      the product with a fault put in: the first 200 seeds, up to the one that finds it
    trace:17         the schedule of a seed, operation by operation

A line a job says how many schedules were run; before it stands a line for each breach, and the job that shows it again.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tests.simulation.checks import breaches
from tests.simulation.disk import Crash, Extent, Scope
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import SMALLEST, Scenario, play, scenario, undisturbed
from tests.simulation.world import quiet_deaths
from utils.llm import litellm_engine

SEEDS = 200  # within which a mutant is found
WRITING = ("write", "append", "claim", "sql begin")  # operations that can be done in part

Named = tuple[str, Scenario]  # a schedule, and the job that is this one alone


def main(jobs: Sequence[str]) -> int:
    """Do what is asked; the exit code: 0 where nothing was breached, and each mutant was found."""
    os.environ["OPENAI_API_KEY"] = "none"
    litellm_engine.preload()
    gc.freeze()
    with quiet_deaths():
        return max([0, *(do(job) for job in jobs)])


def do(job: str) -> int:
    """One job."""
    name, _, rest = job.partition(":")
    if name == "mutant":
        return _hunt(rest)
    if name == "trace":
        return _trace(scenario(int(rest)))
    count = broken = 0
    for label, each in _schedules(name, rest):
        count += 1
        found = _breaches(each)
        broken += bool(found)
        for line in found:
            print(f"{job}: {line}\n    again: python -m tests.simulation {label}", flush=True)
    print(f"{job}: {count} schedules, {broken} broken", flush=True)
    return int(broken > 0)


def _schedules(name: str, rest: str) -> Iterable[Named]:
    if name == "seeds":
        first, _, last = rest.partition("-")
        return ((f"seeds:{seed}", scenario(seed)) for seed in range(int(first), int(last or first) + 1))
    if name == "points":
        return map(_stopped, ((crash,) for crash in _crashes()))
    if name == "pairs":
        return map(_stopped, _pairs(int(rest or 1)))
    if name == "crash":
        return [_stopped([_crash(text) for text in rest.split("+")])]
    raise SystemExit(f"unknown job {name!r}; known: seeds, points, pairs, crash, mutant, trace")


def _breaches(each: Scenario) -> list[str]:
    try:
        return breaches(play(each))
    except Exception as error:  # whatever a command ends with is a breach: it was not to end so
        return [f"{type(error).__name__}: {error}"]


def _hunt(mutant: str) -> int:
    calm = [scenario(seed) for seed in range(SEEDS)]  # what a good day looks like is learnt before the fault is there
    for each in calm:
        with MUTANTS[mutant]():
            found = _breaches(each)
        if found and not _breaches(each):
            print(f"mutant:{mutant}: {each.seed + 1} schedules, found by {found[0]}", flush=True)
            return 0
    print(f"mutant:{mutant}: {SEEDS} schedules, not found", flush=True)
    return 1


def _trace(each: Scenario) -> int:
    played = play(each)
    for point in played.machine.points.passed:
        print(point)
    for call in played.provider.calls:
        print(f"{call.at:.4f} {call.question[:12]} {call.outcome} to {call.process.name}")
    print("the end")
    return 0


# --------------------------------------------------------------------------- every crash point


def _crashes() -> Iterator[Crash]:
    """Each operation of the smallest run, not done or done in part, and then the process or the power is gone.

    An operation that is done, and then the end, is the next one that is not done.
    """
    for number, point in enumerate(undisturbed(SMALLEST).machine.points.passed):
        extents = (Extent.LOST, Extent.TORN) if point.kind.startswith(WRITING) else (Extent.LOST,)
        for extent in extents:
            for scope in (Scope.PROCESS, Scope.POWER):
                yield Crash(number, extent, scope)


def _pairs(step: int) -> Iterator[tuple[Crash, ...]]:
    """Each pair of them in the same schedule, or each `step`-th of these."""
    crashes = list(_crashes())
    pairs = ((first, second) for first in crashes for second in crashes if first.number < second.number)
    return (pair for number, pair in enumerate(pairs) if number % step == 0)


def _stopped(crashes: Sequence[Crash]) -> Named:
    label = "+".join(f"{crash.number}.{crash.extent}.{crash.scope}" for crash in crashes)
    return f"crash:{label}", replace(SMALLEST, crashes=tuple(crashes))


def _crash(text: str) -> Crash:
    number, extent, scope = text.split(".")
    return Crash(int(number), Extent(extent), Scope(scope))
