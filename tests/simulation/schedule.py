"""One schedule: a small grid, what befalls it, and the command typed again until the run is over.

`scenario(seed)` draws all of it; `play` runs it on a machine of its own. The command is the one of `run_benchmark.py`
below its option parsing: it plans, takes the lock, saves, dispatches, and waits for its workers.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import litellm

from benchmark_config import Settings
from local import checkpoint
from local.launch import plan_new
from local.venue import LocalVenue, run
from local.worker import CACHE
from tests.simulation import machine
from tests.simulation.disk import Crash, Extent, Scope
from tests.simulation.machine import Machine
from tests.simulation.provider import Provider, Weather
from utils.archive import TaskState
from utils.records import TaskResult, TaskSpec

MODEL = "openai/gpt-4o-mini"  # a name that litellm knows to take a JSON schema
RUN = "simulated"
COMMANDS = 12  # typed at most
checkpoint.LEAST_PAUSE_S = 15.0  # of virtual time: to render it is most of what a schedule costs
FAIR, STORM = Weather(), Weather(throttled=0.06, error=0.04, malformed=0.04, hanging=0.02)
PICKY = Weather(refused_of=9, cut_of=7)
WEATHERS = (FAIR, STORM, PICKY, replace(STORM, refused_of=9, cut_of=7))

# optimizers x seeds: the grids whose schedules are drawn
GRIDS: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = (
    (("no_op",), (1,)),
    (("no_op", "hill_climb"), (1,)),
    (("hill_climb",), (1, 2)),
    (("no_op", "thompson"), (1,)),
    (("random_paraphrase", "no_op"), (1, 2)),
)


@dataclass(frozen=True)
class Kill:
    """A signal from outside, at a moment."""

    at: float  # seconds on the virtual clock
    number: int  # of the signal
    whom: str  # parent or worker


@dataclass(frozen=True)
class Scenario:
    """What is run, and what befalls it."""

    seed: int
    grid: int = 0
    workers: int = 2
    in_flight: int = 4
    cache: bool = True
    weather: Weather = FAIR
    crashes: tuple[Crash, ...] = ()
    kills: tuple[Kill, ...] = ()


SMALLEST = Scenario(0, grid=0, workers=1)  # a run of one task


@dataclass
class Played:
    """What came of a scenario."""

    scenario: Scenario
    machine: Machine
    provider: Provider
    tasks: tuple[TaskSpec, ...] = ()
    states: dict[str, TaskState] = field(default_factory=dict)
    results: dict[str, TaskResult] = field(default_factory=dict)
    claims: list[str] = field(default_factory=list)  # attempts that still claim a question in the cache
    journals: dict[str, dict[str, str]] = field(default_factory=dict)  # of each task: the text of each attempt's
    commands: int = 0
    lost_cache: bool = False


class Silent:
    """A watcher that says nothing."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_: None


def play(scenario: Scenario) -> Played:
    """The scenario, until a command ends by itself and every task is final. Raises what a command raises, or Stuck."""
    on = Machine(scenario.seed, scenario.crashes)
    provider = Provider(on.world, scenario.weather)
    played = Played(scenario, on, provider)
    with _folder() as folder, used(on, provider):
        on.disk.root = folder / RUN
        on.disk.folders.update(on.disk.root.parents)
        on.disk.beside.append(lambda: _lose_cache(played, on, folder / RUN / CACHE))
        settings = grid_settings(scenario, str(folder))
        venue = LocalVenue(str(folder))
        for kill in scenario.kills:
            on.world.start("user", lambda kill=kill: _send(on, kill), is_bystander=True)
        while played.commands < COMMANDS:
            played.commands += 1
            parent = on.world.run("parent", lambda: _command(settings, venue))
            if parent.exitcode == 0 and _is_over(on, venue, played):
                break
        on.world.run("reader", lambda: _read(venue, played))
        on.world.close()
    return played


def _command(settings: Settings, venue: LocalVenue) -> None:
    run(venue.root, plan_new(settings, venue), settings, Silent())


def _lose_cache(played: Played, on: Machine, path: Path) -> None:
    """The response cache is never synced: it may be there after a power cut, or gone, or no database any more."""
    fate = on.world.rng.choice(("there", "gone", "damaged"))
    if fate != "there" and path.exists():
        played.lost_cache = True
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
        if fate == "damaged":
            path.write_bytes(b"SQLite format 3\0 and then nothing that makes sense")


def _send(on: Machine, kill: Kill) -> None:
    on.world.block(timeout=kill.at - on.world.now)
    victims = [process for process in on.world.alive() if process.name.startswith(kill.whom)]
    if victims:
        victim = on.world.rng.choice(victims)
        if kill.number == signal.SIGKILL:
            on.world.end(victim)
        else:
            victim.signals.append(kill.number)


def _is_over(on: Machine, venue: LocalVenue, played: Played) -> bool:
    over = False

    def look() -> None:
        nonlocal over
        archive = venue.archive(RUN)
        over = all(state.status.is_final for state in archive.states(archive.load_plan().tasks).values())

    on.world.run("look", look)
    return over


def _read(venue: LocalVenue, played: Played) -> None:
    archive = venue.archive(RUN)
    played.tasks = archive.load_plan().tasks
    played.states = archive.states(played.tasks)
    for task_id, state in played.states.items():
        if state.result:
            played.results[task_id] = archive.load_details(state.result)
        played.journals[task_id] = {str(attempt): archive.read_journal(attempt) for attempt in state.attempts}
    if played.scenario.cache:
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(venue.root / RUN / CACHE)) as shared:
            tables = [name for (name,) in shared.execute("select name from sqlite_master where type = 'table'")]
            (claimed,) = set(tables) - {"answers"}
            played.claims = [Path(owner).name for (owner,) in shared.execute(f"select owner from {claimed}")]


def grid_settings(scenario: Scenario, folder: str = Settings.checkpoint_dir) -> Settings:
    """What the command is typed with."""
    optimizers, seeds = GRIDS[scenario.grid]
    return Settings(
        demo_datasets=("ai2_arc",),
        data="sample",
        test_mode=True,
        optimizers=optimizers,
        models=(MODEL,),
        seeds=seeds,
        budget=24,
        run_id=RUN,
        checkpoint_dir=folder,
        max_concurrent=scenario.workers,
        max_in_flight=scenario.in_flight,
        call_timeout=20.0,
        cache=scenario.cache,
        tracing=False,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    """Where the response cache is, the one file that is a real one."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="simulated-", dir=memory if memory.is_dir() else None))
    (folder / RUN).mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def used(on: Machine, provider: Provider) -> Iterator[None]:
    """In their place, for the product that is called in here."""
    machine.use(on)
    litellm.acompletion = provider.acompletion
    try:
        yield
    finally:
        machine.use(None)


# --------------------------------------------------------------------------- draws


def scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = Random(seed)
    drawn = Scenario(
        seed,
        rng.randrange(len(GRIDS)),
        workers=rng.choice((1, 2, 3)),
        in_flight=rng.choice((2, 4, 8)),
        cache=rng.random() < 0.7,
        weather=rng.choice(WEATHERS),
    )
    calm = undisturbed(drawn)
    kinds = Counter(point.kind for point in calm.machine.points.passed)
    return replace(
        drawn,
        crashes=tuple(_crash(rng, kinds) for _ in range(rng.choice((0, 1, 1, 2, 3)))),
        kills=tuple(_kill(rng, calm.machine.world.now) for _ in range(rng.choice((0, 0, 1, 2)))),
    )


def _crash(rng: Random, kinds: Mapping[str, int]) -> Crash:
    kind = rng.choice(sorted(kinds))  # first of which kind, so that a rare one is met as often as a common one
    return Crash(rng.randrange(kinds[kind]), rng.choice(list(Extent)), rng.choice(list(Scope)), kind)


def _kill(rng: Random, longest_s: float) -> Kill:
    number, whom = rng.choice(((signal.SIGKILL, "worker"), (signal.SIGKILL, "parent"), (signal.SIGINT, "parent")))
    return Kill(rng.uniform(0.0, longest_s), number, whom)


def undisturbed(scenario: Scenario) -> Played:
    """The same grid with one worker, with nothing that goes wrong."""
    return _undisturbed(scenario.grid, scenario.cache, scenario.weather.lasting)


@cache
def _undisturbed(grid: int, cache: bool, weather: Weather) -> Played:
    return play(Scenario(0, grid, workers=1, cache=cache, weather=weather))
