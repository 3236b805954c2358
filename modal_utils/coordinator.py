"""Modal as the place where a run is done: looked up, checked, submitted to, resumed, cancelled.

A dispatch, in this order, so that a client may die anywhere in it:

    preflight       the deployed code answers: what it is, and what it lacks
    plan, rows      written once
    submission      the tasks of this dispatch, under a number of its own; from here on calls of earlier dispatches
                    leave them alone
    a look back     what a later dispatch has taken, and what a call of an earlier one began meanwhile, is left to it
    calls           64 on their way at a time, their ids written down every few hundred

Only then the client may leave. The pool of containers belongs to the dispatch: its limit touches no other run.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import modal
from rich.console import Console

from benchmark_config import MODELS, Settings
from benchmark_task import SIMULATED, Launch, check_model, code_of
from modal_utils.deployment import (
    APP,
    DEPLOY,
    LLM_SECRET,
    LONGEST_S,
    MARGIN_S,
    OPIK_SECRET,
    PREFLIGHT,
    RUN_TASK,
    VOLUME,
    code_hash,
    explained,
    link,
    volume,
)
from modal_utils.purse import Money, fill
from modal_utils.storage import RUNS, Calls, Remote, Started, entries, latest_calls, save_calls, save_links
from modal_utils.worker_core import Order
from utils.archive import Attempt, Kind, RunArchive, TaskState
from utils.errors import Unreachable, UsageError
from utils.records import TaskSpec
from utils.report.overview import Overview
from utils.serialization import decode, encode
from utils.tracing.exporter import chosen_items, prepare
from utils.tracing.rows import Sampling
from utils.tracing.target import Target, decide

AT_ONCE = 64  # exchanges with Modal on their way
CHUNK = 500  # calls whose ids are written down together
CHUNK_S = 2.0  # or those of so long
SAVE_PAUSES_S = (1.0, 5.0, 15.0)  # between the last tries to write them down
FULL_S = 300.0  # how long a full queue is waited for
QUIET_S = 10.0  # that a worker may take to answer before a word is said of it
PREFLIGHT_S = 660.0  # a worker that does not answer by then does not start: Modal gives a new image 10 minutes
MOST_NAMED = 5  # modules in a message
SETTLE_S = 5.0  # for a call that began just now to say that it leaves its task alone

# errors that say nothing of a call, but of the way to Modal: taking them for its end would do its task twice
NO_ANSWER = (
    modal.exception.AuthError,
    modal.exception.ConnectionError,
    modal.exception.ServiceError,
    modal.exception.InternalError,
    modal.exception.ResourceExhaustedError,
)

COMPLETED, INTERRUPTED = 0, 130  # exit codes


@dataclass
class ModalVenue:
    """The deployed app and its volume. Raises UsageError, with the command that mends it, for whatever is not there."""

    flags = " --modal"

    _answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    # ------------------------------------------------------------------ what the planning asks

    @cached_property
    def volume(self) -> modal.Volume:
        with explained():
            found = volume()
            found.hydrate()
            return found

    def archive(self, run_id: str) -> RunArchive:
        """The archive of a run on the volume; a task that has begun counts as running until its call says otherwise."""
        return RunArchive(Remote(self.volume, f"{RUNS}/{run_id}"), run_id, lambda _: True)

    def known_runs(self) -> list[str]:
        with explained():
            return sorted(entry.path.rpartition("/")[2] for entry in entries(self.volume, RUNS))

    def check(self, settings: Settings) -> None:
        """Nothing: every limit can be kept here."""

    def check_models(self, names: Sequence[str], params: Mapping[str, Any]) -> None:
        """Raises UsageError for a model that no worker could ask: the keys are looked for where the workers are."""
        for name in names:
            if name.startswith(SIMULATED):
                check_model(name, params)
        real = [name for name in names if not name.startswith(SIMULATED)]
        if real:
            self._preflight(real, params, "")

    def configured_models(self) -> tuple[str, ...]:
        """The rows of MODELS whose keys are in the secret."""
        missing = self._ask_worker(list(MODELS), {}, "")["missing"]
        present = tuple(name for name in MODELS if name not in missing)
        if not present:
            raise UsageError(f"no model named and no key in the secret {LLM_SECRET!r}; {_create(LLM_SECRET, 'KEY')}")
        return present

    def probe(self, launch: Launch) -> None:
        """Nothing: the keys are where the workers are."""

    def warm_up(self, models: Sequence[str]) -> None:
        """Nothing: containers start when there is something to do."""

    def unfinished(
        self, archive: RunArchive, tasks: Sequence[TaskSpec], states: Mapping[str, TaskState]
    ) -> tuple[TaskSpec, ...]:
        """The tasks that are not final and whose calls are gone: those still queued or running are left alone."""
        left = [task for task in tasks if not states[task.task_id].status.is_final]
        with explained():
            calls = _last_calls(archive, left, states)
            alive = asyncio.run(find_alive(list(calls.values())))
            # read after the calls were asked: one that ended in between has written its result by now
            now = archive.states(left)
        return tuple(task for task in left if calls.get(task.task_id) not in alive and not _is_final(now, task))

    # ------------------------------------------------------------------ dispatch

    def dispatch(self, launch: Launch, settings: Settings, console: Console, *, as_json: bool) -> int:
        """Submit what is to be done, and leave; the exit code."""
        run_id = launch.plan.run_id
        follow = f"python check_results.py --modal --run-id {run_id} --watch"
        if not launch.tasks:
            console.print(f"next: {follow}", highlight=False, soft_wrap=True)
            if as_json:
                print(json.dumps({"run_id": run_id, "submitted": 0, "pool": None}))
            return COMPLETED
        specs = {spec.task_id: spec for spec in launch.tasks}
        answer = self._preflight(
            sorted({name for spec in specs.values() for name in spec.models}),
            launch.tasks[0].model_params,
            launch.tasks[0].metric,
            launch.tasks,
        )
        refuse_other_code(launch.tasks, answer["code"])
        if answer["code_hash"] != code_hash():
            console.print(
                f"note: what is deployed is not what is checked out here; `{DEPLOY}` brings it up to date",
                style="yellow",
                markup=False,
                highlight=False,
            )
        is_traced, target = self._traces(settings, answer, console)
        trace_items = chosen_items(settings.trace_items, launch.estimate.task_calls[1]) if is_traced else None
        left_usd = self._left_usd(launch, settings)
        recorder = Recorder(launch.archive, console)
        try:
            with _going_on(f"--run-id {run_id} with the same options goes on"), explained():
                if launch.added is not None:
                    launch.archive.save_plan(launch.added)
            with _going_on(f"`{_again('resume', run_id)}` goes on, and no task is submitted twice"), explained():
                self._submit(launch, settings, left_usd, target, trace_items, recorder)
        except KeyboardInterrupt:
            console.print(
                f"{recorder.stopped_after}\nnext: {_again('resume', run_id)}\n      {_again('cancel', run_id)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            return INTERRUPTED
        count = "1 task" if recorder.total == 1 else f"{recorder.total:,} tasks"
        console.print(
            f"run {run_id}: {count} submitted; this command is not needed any more\n"
            f"containers: {link(recorder.pool)}\nnext: {follow}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if as_json:
            print(json.dumps({"run_id": run_id, "submitted": recorder.total, "pool": recorder.pool}))
        return COMPLETED

    def _submit(
        self,
        launch: Launch,
        settings: Settings,
        left_usd: float | None,
        target: Target | None,
        trace_items: Sampling | None,
        recorder: Recorder,
    ) -> None:
        """Everything after the plan; what was done of it stands, whatever ends it."""
        archive, run_id = launch.archive, launch.plan.run_id
        for spec, splits in launch.splits:
            archive.save_splits(spec, splits)
        submission = archive.submit(launch.kind, launch.tasks, _now(), secrets.token_hex(4)).number
        pool = self._pool(settings, f"{run_id}.{submission}")
        if target:  # their datasets are made here, once, before any container needs them
            save_links(archive, submission, prepare(archive, replace(launch.plan, tasks=launch.tasks), target))
        states, ours = self._look_back(archive, launch, submission)
        money = None
        if left_usd is not None:
            mine = {task.task_id for task in ours}
            open_tasks = [task for task in launch.tasks if not _is_final(states, task)]
            _refuse_sharing(run_id, [task for task in open_tasks if task.task_id not in mine])
            money = fill(run_id, submission, left_usd)
        orders = list(_orders(replace(launch, tasks=ours, states=states), settings, submission, trace_items, money))
        recorder.begin(submission, pool.object_id, len(orders))
        asyncio.run(spawn_all(pool, orders, recorder))

    def cancel(self, open_run: Callable[[], RunArchive], console: Console) -> int:
        """Queued calls end unstarted, running ones journal what they were answered and end."""
        with explained():
            archive = open_run()
            tasks = archive.load_plan().tasks
            states = archive.states(tasks)
            left = [task for task in tasks if not states[task.task_id].status.is_final]
            if not left:
                console.print(f"run {archive.run_id}: nothing to cancel, every task is final", highlight=False)
                return COMPLETED
            archive.submit(Kind.CANCEL, left, _now(), secrets.token_hex(4))
            cancelled = asyncio.run(_cancel(list(_last_calls(archive, left, states).values())))
        console.print(
            f"run {archive.run_id}: {len(left):,} tasks cancelled, {cancelled:,} of their calls were still alive\n"
            f"next: {_again('resume', archive.run_id)}",
            highlight=False,
            soft_wrap=True,
        )
        return COMPLETED

    def delete(self, archive: RunArchive, make_sure: Callable[[str], None]) -> None:
        with explained():
            if busy := self.at_work(archive):
                raise UsageError(
                    f"run {archive.run_id!r} is at work on {len(busy)} of its tasks; wait for them, or take them back"
                    f" with `{_again('cancel', archive.run_id)}`"
                )
            make_sure(f"the volume {VOLUME!r} on Modal")
            self.volume.remove_file(f"{RUNS}/{archive.run_id}", recursive=True)

    def at_work(self, archive: RunArchive) -> set[str]:
        """The tasks of a run that are queued or running, by id."""
        tasks = archive.load_plan().tasks
        states = archive.states(tasks)
        open_tasks = [task for task in tasks if not _is_final(states, task)]
        left = {task.task_id for task in self.unfinished(archive, open_tasks, states)}
        now = archive.states(open_tasks)
        return {task.task_id for task in open_tasks if task.task_id not in left and not _is_final(now, task)}

    def _traces(self, settings: Settings, answer: Mapping[str, Any], console: Console) -> tuple[bool, Target | None]:
        """Whether containers send traces, and where to, if that is configured here too. Raises UsageError.

        What containers have is enough; the target makes datasets before they start, and links that can be shown.
        """
        here = decide(False if settings.tracing is False else None, os.environ)
        line, is_traced = here.line, settings.tracing is not False and answer["is_traced"]
        if is_traced and here.target is None:
            line = f"{answer['tracing']}, by the secret {OPIK_SECRET!r} (no links here, where nothing is configured)"
        elif here.target and not is_traced:
            line = f"{answer['tracing']}, on Modal"
        if settings.tracing and not is_traced:
            raise UsageError(
                f"--tracing cannot be kept: {line}; {_create(OPIK_SECRET, 'OPIK_API_KEY and OPIK_WORKSPACE')}"
            )
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
        return is_traced, here.target if is_traced else None

    def _pool(self, settings: Settings, name: str) -> modal.Function[..., Any, Any]:
        """The function, as a variant with containers of its own: a name that no other has makes it one."""
        pool = modal.Function.from_name(APP, RUN_TASK).with_options(
            env={"BENCHMARK_DISPATCH": name},
            max_containers=settings.max_concurrent,
            timeout=min(LONGEST_S, int(settings.task_timeout) + MARGIN_S),
            secrets=self._secrets,
        )
        pool.hydrate()
        return pool

    @cached_property
    def _secrets(self) -> list[modal.Secret]:
        """The secrets that exist; what a model needs beyond them, preflight tells."""
        found = []
        for name in (LLM_SECRET, OPIK_SECRET):
            secret = modal.Secret.from_name(name)
            try:
                secret.hydrate()
            except modal.exception.NotFoundError:
                continue
            found.append(secret)
        return found

    def _left_usd(self, launch: Launch, settings: Settings) -> float | None:
        """What is left of the run's limit, if it has one. Raises UsageError where nothing is, or others spend of it."""
        if settings.run_max_cost is None:
            return None
        if not launch.states:
            return settings.run_max_cost
        run_id, mine = launch.plan.run_id, {task.task_id for task in launch.tasks}
        with explained():
            others = [task for task in launch.plan.tasks if task.task_id not in mine]
            others = [task for task in others if not _is_final(launch.states, task)]
            calls = _last_calls(launch.archive, others, launch.states)
            alive = asyncio.run(find_alive(list(calls.values())))
            _refuse_sharing(run_id, [task for task in others if calls.get(task.task_id) in alive])
            paid = Overview(launch.archive, launch.plan).render()["paid"]
        spent = sum(usd or 0.0 for usd in paid.values())
        if spent >= settings.run_max_cost:
            raise UsageError(
                f"the limit of ${settings.run_max_cost:g} of run {run_id!r} is reached, ${spent:.4f} are paid; give a"
                " higher --run-max-cost"
            )
        return settings.run_max_cost - spent

    def _look_back(
        self, archive: RunArchive, launch: Launch, submission: int
    ) -> tuple[Mapping[str, TaskState], tuple[TaskSpec, ...]]:
        """The states of the tasks now, and those of them that are ours to do.

        Not ours is what a later dispatch has, what calls of earlier ones began after we looked and before they could
        see this one, and what has ended.
        """
        waiting: dict[str, str] = {}
        states = archive.states(launch.tasks) if submission > 1 else {}
        for task_id, state in states.items():
            known = set(launch.states.get(task_id, TaskState()).attempts)
            late = [attempt for attempt in state.attempts if attempt not in known]
            if late:
                waiting[task_id] = _started(archive, late[-1]).call
        deadline = time.monotonic() + SETTLE_S
        while waiting and time.monotonic() < deadline:
            alive = asyncio.run(find_alive(list(waiting.values())))
            waiting = {task_id: call for task_id, call in waiting.items() if call in alive}
            time.sleep(0.2 if waiting else 0)
        taken = {task_id for later in archive.submissions(after=submission) for task_id in later.task_ids}
        states = archive.states(launch.tasks)
        ours = (task for task in launch.tasks if task.task_id not in waiting and task.task_id not in taken)
        return states, tuple(task for task in ours if not _is_final(states, task))

    # ------------------------------------------------------------------ preflight

    def _preflight(
        self, models: Sequence[str], params: Mapping[str, Any], metric: str, tasks: Sequence[TaskSpec] = ()
    ) -> dict[str, Any]:
        """What the deployed worker says of itself. Raises UsageError for what it lacks."""
        answer = self._ask_worker(models, params, metric, tasks)
        for model, key in answer["missing"].items():
            raise UsageError(f"model {model!r} needs {key} where the workers are; {_create(LLM_SECRET, key)}")
        for problem in answer["problems"]:
            raise UsageError(problem)
        return answer

    def _ask_worker(
        self, models: Sequence[str], params: Mapping[str, Any], metric: str, tasks: Sequence[TaskSpec] = ()
    ) -> dict[str, Any]:
        # one task of each kind: what else they differ in is not decided by code
        kinds = {(task.dataset, task.optimizer, task.metric): task for task in tasks}
        words = [list(models), encode(params), metric, [encode(task) for task in kinds.values()]]
        asked = json.dumps(words, sort_keys=True)
        if asked not in self._answers:
            with explained():
                look = modal.Function.from_name(APP, PREFLIGHT).with_options(secrets=self._secrets)
                call = look.spawn(*words)
                try:
                    self._answers[asked] = first_answer(call.get, lambda text: print(text, file=sys.stderr))
                except NO_ANSWER:
                    raise
                except Exception as error:  # of whatever kind the worker raised, on its own side, or no answer
                    reason = " ".join(str(error).split()) or f"no answer after {QUIET_S + PREFLIGHT_S:.0f} s"
                    raise UsageError(
                        f"the deployed worker does not start: {type(error).__name__}: {reason[:300]}; mend it and"
                        f" `{DEPLOY}`; its log: {link(call.object_id)}"
                    ) from None
        return self._answers[asked]


def refuse_other_code(tasks: Sequence[TaskSpec], deployed: Mapping[str, str]) -> None:
    """Raises UsageError where the code that decides the results of these tasks is not what is deployed."""
    here = {name: found for task in tasks for name, found in code_of(task).items()}
    if changed := sorted(name for name, found in here.items() if deployed.get(name) != found):
        raise UsageError(
            f"{', '.join(changed[:MOST_NAMED])}, which decides the results, is deployed as it is not checked out here;"
            f" `{DEPLOY}` brings it up to date"
        )


# --------------------------------------------------------------------------- calls


def _orders(
    launch: Launch, settings: Settings, submission: int, trace_items: Sampling | None, money: Money | None
) -> Iterator[Order]:
    retried_at = launch.archive.retried_at()
    for spec in launch.tasks:
        yield Order(
            run_id=launch.plan.run_id,
            submission=submission,
            spec=spec,
            earlier=launch.states.get(spec.task_id, TaskState()).attempts,
            retried_at=retried_at.get(spec.task_id, 0),
            in_flight=max(1, settings.max_in_flight // settings.max_concurrent),
            call_timeout_s=settings.call_timeout,
            task_timeout_s=min(settings.task_timeout, LONGEST_S - MARGIN_S),
            log_level=settings.log_level,
            trace_items=trace_items,
            created=launch.plan.created,
            money=money,
        )


class Recorder:
    """Writes the ids of calls down while they are made."""

    def __init__(self, archive: RunArchive, console: Console) -> None:
        self._archive = archive
        self._console = console
        self._submission = self._wanted = self._chunks = 0
        self._fresh: dict[str, str] = {}
        self._saved_at = 0.0
        self.pool = ""
        self.total = 0

    def begin(self, submission: int, pool: str, wanted: int) -> None:
        """From now on calls are made: so many, of this dispatch."""
        self._submission, self.pool, self._wanted = submission, pool, wanted
        self._saved_at = time.monotonic()

    @property
    def stopped_after(self) -> str:
        """How far it came, in words."""
        if not self.total:
            return "stopped before any call was made"
        return f"stopped after {self.total:,} of {self._wanted:,} calls; they go on."

    def add(self, task_id: str, call: str) -> None:
        self._fresh[task_id] = call
        self.total += 1

    @property
    def is_due(self) -> bool:
        return len(self._fresh) >= CHUNK or bool(self._fresh and time.monotonic() - self._saved_at > CHUNK_S)

    def save(self) -> None:
        """Write down what is not yet. Raises Unreachable; what was not written then is written the next time."""
        self._saved_at = time.monotonic()
        if fresh := dict(self._fresh):
            self._chunks += 1  # each try has a name of its own: what seems lost may have arrived
            save_calls(self._archive, Calls(self._submission, self.pool, fresh), self._chunks)
            for task_id in fresh:
                del self._fresh[task_id]
            self._console.print(f"submitted {self.total:,} of {self._wanted:,}", style="dim", highlight=False)


async def spawn_all(pool: modal.Function[..., Any, Any], orders: Sequence[Order], recorder: Recorder) -> None:
    """A call for each order; whatever ends this early, the calls that were made are written down."""
    waiting = ((order.spec.task_id, encode(order)) for order in orders)

    async def spawn() -> None:
        for task_id, order in waiting:
            call = await patiently(partial(pool.spawn.aio, order))
            recorder.add(task_id, call.object_id)

    is_over = asyncio.Event()

    async def record() -> None:
        while not is_over.is_set():
            await asyncio.sleep(0.1)
            if recorder.is_due:
                with suppress(Unreachable):
                    await asyncio.to_thread(recorder.save)

    writer = asyncio.create_task(record())
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(spawn())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # one that stops a call stops them all
    finally:
        is_over.set()  # no cancellation, which leaves a thread behind that still writes
        last = asyncio.ensure_future(_save_at_last(recorder, writer))
        try:
            await asyncio.shield(last)
        except asyncio.CancelledError:  # a Ctrl-C waits until the ids are written, too
            await last
            raise


async def _save_at_last(recorder: Recorder, writer: asyncio.Task[None]) -> None:
    """Write down what the writer has left. Raises Unreachable where Modal stays away."""
    await asyncio.gather(writer, return_exceptions=True)
    for pause_s in SAVE_PAUSES_S:
        try:
            await asyncio.to_thread(recorder.save)
            return
        except Unreachable:
            await asyncio.sleep(pause_s)
    await asyncio.to_thread(recorder.save)


def first_answer(get: Callable[..., Any], tell: Callable[[str], None]) -> Any:
    """What `get(timeout=...)` gives; where that takes long it is told why. Raises TimeoutError, or what `get` does."""
    try:
        return get(timeout=QUIET_S)
    except TimeoutError:
        tell("waiting for the first container: the image of a new deployment may take 10 minutes to arrive")
        return get(timeout=PREFLIGHT_S)


async def patiently(
    call: Callable[[], Awaitable[Any]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Any:
    """The same, again while the queue is full. Raises UsageError when it stays so: a billing limit, perhaps."""
    waited, pause = 0.0, 1.0
    while True:
        try:
            return await call()
        except modal.exception.ResourceExhaustedError as error:
            if waited >= FULL_S:
                raise UsageError(
                    f"Modal takes no more calls for {waited:.0f} s: {error}; look at the workspace's usage and limits"
                ) from None
            await sleep(pause)
            waited, pause = waited + pause, min(30.0, 2 * pause)


async def find_alive(calls: Sequence[str]) -> set[str]:
    """Those of some calls that are queued or running."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(call: str) -> bool:
        async with gate:
            try:
                await modal.FunctionCall.from_id(call).get.aio(timeout=0)
            except TimeoutError:
                return True
            except NO_ANSWER:
                raise
            except Exception:  # whatever the call ended with: it is not alive
                return False
            return False

    answers = await asyncio.gather(*map(ask, calls))
    return {call for call, alive in zip(calls, answers, strict=True) if alive}


async def _cancel(calls: Sequence[str]) -> int:
    gate = asyncio.Semaphore(AT_ONCE)

    async def end(call: str) -> None:
        async with gate:
            await modal.FunctionCall.from_id(call).cancel.aio()

    alive = await find_alive(calls)
    await asyncio.gather(*map(end, alive))
    return len(alive)


def _last_calls(archive: RunArchive, tasks: Sequence[TaskSpec], states: Mapping[str, TaskState]) -> dict[str, str]:
    """The last call of each of some tasks. One whose client died before it wrote it down is known by what it began."""
    recorded = latest_calls(archive)
    found = {}
    for task_id in (task.task_id for task in tasks):
        submission, call = recorded.get(task_id, (0, ""))
        attempts = states[task_id].attempts
        if attempts and attempts[-1].submission > submission:
            call = _started(archive, attempts[-1]).call
        if call:
            found[task_id] = call
    return found


def _refuse_sharing(run_id: str, others: Sequence[TaskSpec]) -> None:
    """Raises UsageError where tasks are in other hands, which may spend what they were given."""
    if others:
        raise UsageError(
            f"--run-max-cost: an earlier submission of run {run_id!r} still works on {len(others)} of its tasks, with"
            f" what it was given; wait for them, or take them back with `{_again('cancel', run_id)}`"
        )


def _is_final(states: Mapping[str, TaskState], task: TaskSpec) -> bool:
    return states[task.task_id].status.is_final


def _started(archive: RunArchive, attempt: Attempt) -> Started:
    return decode(Started, json.loads(archive.blobs.read(archive.started_name(attempt))))


# --------------------------------------------------------------------------- words


def _again(verb: str, run_id: str) -> str:
    return f"python run_benchmark.py --modal --{verb}-run-id {run_id}"


@contextmanager
def _going_on(way_out: str) -> Iterator[None]:
    """Adds to an error how the run goes on: whoever named no run has not seen its id."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{error}; {way_out}") from None


def _create(secret: str, key: str) -> str:
    names = " ".join(f"{name}=..." for name in key.replace(" or ", " and ").split(" and "))
    return f"`modal secret create {secret} {names}` (with --force, and its other keys again, if it exists)"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
