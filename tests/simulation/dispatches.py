"""One schedule of a run on Modal: two dispatchers at once, containers that are lost, and the command typed again.

The same grids as in `schedule.py`, and a good day is the same: what a run on Modal brings is what a run here brings.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from io import StringIO
from random import Random

from rich.console import Console

from benchmark_config import Settings
from local.launch import plan_new
from modal_utils.coordinator import ModalVenue
from modal_utils.storage import load_calls
from tests.simulation import cloud
from tests.simulation.cloud import WORST, Cloud, Sky
from tests.simulation.disk import Crash, Extent, Scope
from tests.simulation.machine import Machine
from tests.simulation.provider import Provider, Weather
from tests.simulation.schedule import COMMANDS, FAIR, GRIDS, RUN, WEATHERS, Kill, Played, grid_settings, used
from utils.errors import UsageError

LONGEST_S = 1200.0
LIMITS_USD = (0.002, 0.01, 0.05)
CLEAR = Sky()
SKIES = (CLEAR, Sky(behind=True), Sky(away=0.004, full=0.1), Sky(unanswered=0.2), Sky(0.004, 0.1, 0.2, behind=True))
REFUSED, INTERRUPTED = 2, 130  # exit statuses of a command
EARLIEST_S, LATEST_S = 0.0, 12.0  # between one command and the next, whether or not the first is over


@dataclass(frozen=True)
class Dispatches:
    """What is run, and what befalls it."""

    seed: int
    grid: int = 0
    workers: int = 2
    in_flight: int = 4
    weather: Weather = FAIR
    sky: Sky = CLEAR
    dispatchers: tuple[int, ...] = (1,)  # at once: of the first time, the second, ...; then one
    cancels: tuple[int, ...] = ()  # after which of these times the run is cancelled
    crashes: tuple[Crash, ...] = ()
    kills: tuple[Kill, ...] = ()
    limit_usd: float | None = None  # of the first command; each one after it has twice as much
    cache = False  # shared answers are for runs on one machine


@dataclass
class PlayedOnModal(Played):
    """What came of it."""

    cloud: Cloud | None = None
    cancelled: list[tuple[float, float]] = field(default_factory=list)  # from the end of a cancel to the next command
    billed: list[tuple[float, tuple[int, int]]] = field(default_factory=list)  # by each limit, before the next
    written: set[str] = field(default_factory=set)  # ids of calls that the archive knows


def play(scenario: Dispatches) -> PlayedOnModal:
    """The scenario, until every task is final. Raises what a command raises, or Stuck."""
    on = Machine(scenario.seed, scenario.crashes, LONGEST_S)
    modal = Cloud(on.world, on.points, scenario.sky)
    provider = Provider(on.world, scenario.weather)
    played = PlayedOnModal(scenario, on, provider, cloud=modal)
    with used(on, provider), _used(modal):
        on.world.start("modal", modal.serve, is_bystander=True)
        for kill in scenario.kills:
            on.world.start("fate", lambda kill=kill: _send(on, modal, kill), is_bystander=True)
        on.world.run("user", lambda: _type(played, scenario))
        modal.sky = CLEAR
        on.world.run("reader", lambda: _read(played))
        on.world.close()
    return played


def _type(played: PlayedOnModal, scenario: Dispatches) -> None:
    """The command, again and again, by one or two at once."""
    world, modal = played.machine.world, played.cloud
    settings = replace(grid_settings(scenario), run_max_cost=scenario.limit_usd)
    while played.commands < COMMANDS:
        turn = played.commands
        played.commands += 1
        _dispatch(played, settings, scenario.dispatchers[turn] if turn < len(scenario.dispatchers) else 1)
        if turn in scenario.cancels:
            _cancel(played)
        # in the end nobody is in a hurry any more
        hurry_s = world.rng.uniform(EARLIEST_S, LATEST_S) if turn < len(scenario.dispatchers) else None
        world.block(lambda: modal.is_quiet, hurry_s)
        if settings.run_max_cost is not None:
            played.billed.append((settings.run_max_cost, played.provider.billed))
            settings = replace(settings, run_max_cost=2 * settings.run_max_cost)
        if modal.is_quiet and _is_over():
            break
    world.block(lambda: modal.is_quiet)


def _dispatch(played: PlayedOnModal, settings: Settings, count: int) -> None:
    """So many dispatchers, at once or soon after one another, until all are over."""
    world = played.machine.world
    at_once = []
    for _ in range(count):
        at_once.append(world.start("dispatcher", lambda: _command(settings)))
        if count > 1:
            world.block(timeout=world.rng.choice((0.0, world.rng.uniform(EARLIEST_S, LATEST_S))))
    world.block(lambda: all(process.is_gone for process in at_once))


def _command(settings: Settings) -> None:
    """What `run_benchmark.py --modal` does below its options; its exit status."""
    world, process = cloud.current().world, cloud.current().world.process
    process.handlers[signal.SIGINT] = signal.default_int_handler
    venue = ModalVenue()
    try:
        launch = plan_new(settings, venue)
        status = venue.dispatch(launch, settings, Console(file=StringIO()), as_json=False)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except UsageError:
        status = REFUSED
    world.end(process, status)


def _cancel(played: PlayedOnModal) -> None:
    """`--cancel-run-id`, and a while in which nothing of the run goes on."""
    world = played.machine.world

    def cancel() -> None:
        venue = ModalVenue()
        try:
            venue.cancel(lambda: venue.archive(RUN), Console(file=StringIO()))
        except UsageError:
            world.end(world.process, REFUSED)

    process = world.start("canceller", cancel)
    world.block(lambda: process.is_gone)
    if process.exitcode == 0:
        since = world.now
        world.block(timeout=world.rng.uniform(EARLIEST_S, 3 * LATEST_S))
        played.cancelled.append((since, world.now))


def _send(on: Machine, modal: Cloud, kill: Kill) -> None:
    on.world.block(timeout=kill.at - on.world.now)
    victims = [process for process in on.world.alive() if process.name.startswith(kill.whom) and not process.signals]
    running = {call.process: call for call in modal.calls.values() if call.process}
    victims = [process for process in victims if process not in running or running[process].disturbed < WORST]
    if victims:
        victim = on.world.rng.choice(victims)
        if kill.number == signal.SIGKILL:
            on.world.end(victim)
        elif victim in running:
            modal.preempt(victim)
        else:
            victim.signals.append(kill.number)


def _is_over() -> bool:
    try:
        archive = ModalVenue().archive(RUN)
        return archive.exists() and all(
            state.status.is_final for state in archive.states(archive.load_plan().tasks).values()
        )
    except UsageError:
        return False


def _read(played: PlayedOnModal) -> None:
    archive = ModalVenue().archive(RUN)
    played.tasks = archive.load_plan().tasks
    played.states = archive.states(played.tasks)
    for task_id, state in played.states.items():
        if state.result:
            played.results[task_id] = archive.load_details(state.result)
        played.journals[task_id] = {str(attempt): archive.read_journal(attempt) for attempt in state.attempts}
    played.written = {call for calls in load_calls(archive) for call in calls.ids.values()}


@contextmanager
def _used(modal: Cloud) -> Iterator[None]:
    cloud.use(modal)
    try:
        yield
    finally:
        cloud.use(None)


# --------------------------------------------------------------------------- draws


def scenario(seed: int) -> Dispatches:
    """The scenario of a seed."""
    rng = Random(f"modal {seed}")
    drawn = Dispatches(
        seed,
        rng.randrange(len(GRIDS)),
        workers=rng.choice((1, 2, 3)),
        in_flight=rng.choice((2, 4, 8)),
        weather=rng.choice(WEATHERS),
        sky=rng.choice(SKIES),
        dispatchers=tuple(rng.choice((1, 2, 2)) for _ in range(rng.choice((1, 2, 3)))),
        cancels=(rng.randrange(3),) if rng.random() < 0.25 else (),
    )
    kinds, longest_s = _learnt(drawn.grid)
    return replace(
        drawn,
        crashes=tuple(_crash(rng, kinds) for _ in range(rng.choice((0, 1, 1, 2)))),
        kills=tuple(_kill(rng, longest_s) for _ in range(rng.choice((0, 0, 1, 2)))),
        limit_usd=rng.choice(LIMITS_USD) if rng.random() < 0.25 else None,
    )


def _crash(rng: Random, kinds: Counter[str]) -> Crash:
    kind = rng.choice(sorted(kinds))
    return Crash(rng.randrange(kinds[kind]), rng.choice(list(Extent)), Scope.PROCESS, kind)


def _kill(rng: Random, longest_s: float) -> Kill:
    whoms = ((signal.SIGKILL, "worker"), (signal.SIGINT, "worker"), (signal.SIGKILL, "dispatcher"))
    number, whom = rng.choice((*whoms, (signal.SIGINT, "dispatcher")))
    return Kill(rng.uniform(0.0, 5.0 if whom == "dispatcher" else longest_s), number, whom)


@cache
def _learnt(grid: int) -> tuple[Counter[str], float]:
    """The crash points of a run on a good day, and how long it takes."""
    calm = play(Dispatches(0, grid))
    kinds = Counter(point.kind for point in calm.machine.points.passed)
    return kinds, calm.machine.world.now


cloud.install()
