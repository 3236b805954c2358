"""What can be asked of the simulation: jobs on the command line, each a set of schedules.

    seeds:0-199      a schedule for each seed
    points, points:3 one grid of one task, stopped at each of its crash points in turn, or at each third
    pairs, pairs:50  the same at each pair of them, or at each fiftieth pair
    crash:7.torn.power+40.lost.process
                     one of these again
    mutant:NAME      the product with a fault put in: the first 200 seeds, up to the one that finds it
    trace:17         the schedule of a seed, operation by operation
    modal:0-79       a schedule of a run on Modal for each seed
    modal-trace:17   one of these, operation by operation
    modal-mutant:NAME
                     the same with a fault put in

A line a job says how many schedules were run; before it stands a line for each breach, and the job that shows it again.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice

from tests.simulation.checks import breaches
from tests.simulation.disk import Crash, Extent, Scope
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import SMALLEST, Played, Scenario, play, scenario, undisturbed
from tests.simulation.world import quiet_deaths
from utils.llm import litellm_engine

SEEDS = 200  # within which a mutant is found
WRITING = ("write", "append", "claim", "sql begin")  # operations that can be done in part

Check = Callable[[], list[str]]  # a schedule, which is played: what was breached
Named = tuple[str, Check]  # and the job that is this one alone


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
        return _hunt(job, MUTANTS[rest], [partial(_breaches, scenario(seed)) for seed in range(SEEDS)])
    if name == "trace":
        return _trace(job, play(scenario(int(rest))))
    if name.startswith("modal-"):
        # Modal's client is slow to import, and the other jobs need none
        from tests.simulation import dispatches, modal_checks, modal_mutants

        if name == "modal-mutant":
            calm = [partial(_breaches_of, modal_checks.of, dispatches.scenario(seed)) for seed in range(SEEDS)]
            return _hunt(job, modal_mutants.MUTANTS[rest], calm)
        return _trace(job, dispatches.play(dispatches.scenario(int(rest))))
    count = broken = 0
    for label, each in _schedules(name, rest):
        count += 1
        found = each()
        broken += bool(found)
        for line in found:
            print(f"{job}: {line}\n    again: python -m tests.simulation {label}", flush=True)
    print(f"{job}: {count} schedules, {broken} broken", flush=True)
    return int(broken > 0)


def _schedules(name: str, rest: str) -> Iterable[Named]:
    if name == "seeds":
        return ((f"seeds:{seed}", partial(_breaches, scenario(seed))) for seed in _range(rest))
    if name == "modal":
        from tests.simulation import dispatches, modal_checks

        seeds = ((seed, dispatches.scenario(seed)) for seed in _range(rest))
        return ((f"modal:{seed}", partial(_breaches_of, modal_checks.of, each)) for seed, each in seeds)
    if name == "points":
        return map(_stopped, ((crash,) for crash in islice(_crashes(), 0, None, int(rest or 1))))
    if name == "pairs":
        return map(_stopped, _pairs(int(rest or 1)))
    if name == "crash":
        return [_stopped([_crash(text) for text in rest.split("+")])]
    raise SystemExit(f"unknown job {name!r}; known: seeds, modal, points, pairs, crash, mutant, trace")


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _breaches(each: Scenario) -> list[str]:
    return _breaches_of(lambda: breaches(play(each)))


def _breaches_of(play_and_check: Callable[..., list[str]], *args: object) -> list[str]:
    try:
        return play_and_check(*args)
    except Exception as error:  # whatever a command ends with is a breach: it was not to end so
        return [f"{type(error).__name__}: {error}"]


def _hunt(job: str, mutant: Callable[[], AbstractContextManager[None]], seeds: Sequence[Check]) -> int:
    """Play with a fault put in, which is not there while the seeds are drawn: they learn what a good day looks like."""
    for number, check in enumerate(seeds, 1):
        with mutant():
            found = check()
        if found and not check():
            print(f"{job}: {number} schedules, found by {found[0]}", flush=True)
            return 0
    print(f"{job}: {len(seeds)} schedules, not found", flush=True)
    return 1


def _trace(job: str, played: Played) -> int:
    print(job)
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
    return f"crash:{label}", partial(_breaches, replace(SMALLEST, crashes=tuple(crashes)))


def _crash(text: str) -> Crash:
    number, extent, scope = text.split(".")
    return Crash(int(number), Extent(extent), Scope(scope))
