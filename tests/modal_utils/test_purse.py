"""The limit of a run holds over containers that know nothing of each other, and what one does not need another gets."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modal_proto import api_pb2 as pb

from modal_utils.purse import Money, Share, patiently
from modal_utils.storage import Mounted, limited
from modal_utils.worker_core import Order, run_optimization_task
from tests.modal_utils.test_worker_core import order
from tests.servers.modal.volume import Volume
from utils.archive import Attempt, Folder, Kind, RunArchive
from utils.bills import Bills
from utils.errors import Drained, TaskError, Unreachable
from utils.records import Budget, TaskResult, TaskSpec

TERSE = {"max_tokens": 80}  # what a call may cost is near what it costs
SPEC = TaskSpec(
    "gsm8k", "no_op", "sim/standard", 1, model_params=TERSE, data="sample", test_mode=True, budget=Budget(60)
)
SPECS = [replace(SPEC, seed=seed) for seed in range(1, 6)]


class Jar:
    """Coins that are here."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = Lock()

    def take(self, count: int) -> int:
        with self._lock:
            taken = min(count, self.count)
            self.count -= taken
            return taken

    def give(self, count: int) -> None:
        with self._lock:
            self.count += count


# a container, what its next calls may cost at most, the part of it that they do, and what becomes of it then
moves = st.tuples(st.integers(0, 3), st.floats(0, 3), st.floats(0, 1), st.sampled_from(["goes on", "ends", "is lost"]))


@given(st.lists(moves, max_size=40), st.integers(1, 60))
def test_whatever_containers_do_and_whichever_are_lost_no_more_is_paid_than_the_limit(
    story: list[tuple[int, float, float, str]], count: int
) -> None:
    coin = 0.1
    jar = Jar(count)
    shares = {number: Share(jar, coin) for number in range(4)}
    paid = 0.0
    for number, most, part, then in story:
        share = shares[number]
        try:
            asyncio.run(share.reserve(most))
        except Drained:
            then = "ends"
        else:
            paid += most * part
            if then != "is lost":
                share.settle(most, most * part)
        if then == "ends":
            share.give_back()
        if then != "goes on":
            shares[number] = Share(jar, coin)
    assert paid <= count * coin + 1e-9


def test_what_one_does_not_need_another_gets() -> None:
    jar = Jar(10)
    first, second = Share(jar, 1.0), Share(jar, 1.0)
    asyncio.run(first.reserve(9.0))
    with pytest.raises(Drained):
        asyncio.run(second.reserve(2.0))
    assert second.is_empty
    second.give_back()
    first.settle(9.0, 0.5)
    first.give_back()
    assert jar.count == 9, "half a coin is spent, the other half is change"
    third = Share(jar, 1.0)
    asyncio.run(third.reserve(9.0))
    assert jar.count == 0


def test_a_call_waits_for_what_another_of_its_container_gives_back() -> None:
    share = Share(Jar(3), 1.0)

    async def calls() -> list[str]:
        done: list[str] = []
        await share.reserve(2.5)

        async def second() -> None:
            await share.reserve(2.0)
            done.append("second")

        waiting = asyncio.create_task(second())
        for _ in range(5):
            await asyncio.sleep(0)
        done.append("first")
        share.settle(2.5, 0.5)
        await waiting
        return done

    assert asyncio.run(calls()) == ["first", "second"]
    assert not share.is_empty


def test_coins_that_cannot_be_given_back_cost_no_result() -> None:
    jar = Jar(2)
    share = Share(jar, 1.0)
    asyncio.run(share.reserve(1.5))
    share.settle(1.5, 0.0)
    jar.give = lambda count: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    share.give_back()
    assert jar.count == 0, "lost: the limit holds"


def test_a_purse_that_does_not_answer_is_asked_again_for_minutes() -> None:
    slept: list[float] = []

    def away(times: int) -> Any:
        left = iter([*[Unreachable("away")] * times, None])

        def exchange() -> str:
            if error := next(left):
                raise error
            return "coins"

        return exchange

    assert patiently(away(3), slept.append) == "coins"
    assert slept == [1, 5, 15]
    with pytest.raises(TaskError, match="away"):
        patiently(away(99), slept.append)
    assert sum(slept) > 180


# --------------------------------------------------------------------------- tasks


class Containers:
    """A run on a volume that many mount at once, each with a copy of its own."""

    def __init__(self, folder: Path) -> None:
        self._volume = Volume("vo-1", "results", pb.VOLUME_FS_VERSION_V2, folder, "snapshot")
        self._names = count(1)
        self.archive = RunArchive(Folder(self._volume.master), "r")
        self.archive.submit(Kind.NEW, SPECS, "now")

    def run(self, orders: list[Order], jar: Jar, at_once: int) -> list[str]:
        """What came of each task, so many at a time."""

        def one(which: Order) -> str:
            name = f"ta-{next(self._names):06d}"
            folder = self._volume.attach(name)
            blobs = Mounted(folder, lambda: self._volume.commit(name), lambda: self._volume.reload(name))
            done = run_optimization_task(which, blobs, name.replace("ta", "fc"), name, lambda _: jar)
            self._volume.detach(name)
            return str(done["state"])

        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(one, orders))

    @property
    def attempts(self) -> dict[str, tuple[Attempt, ...]]:
        return {task_id: state.attempts for task_id, state in self.archive.states(SPECS).items()}

    @property
    def billed(self) -> float:
        return Bills(self.archive).of(attempt for begun in self.attempts.values() for attempt in begun).usd or 0.0

    @property
    def outcomes(self) -> dict[str, TaskResult]:
        names = self.archive.blobs.list("results")
        return {result.task_id: replace(result, seconds=0.0) for result in map(self.archive.load_result, names)}


@pytest.mark.parametrize("at_once", [1, 4])
def test_tasks_beyond_the_limit_can_be_resumed_with_more_and_end_as_if_there_had_been_none(
    at_once: int, tmp_path: Path
) -> None:
    free = Containers(tmp_path / "free")
    free.run([order(spec) for spec in SPECS], Jar(0), 1)
    assert free.billed > 0

    here, limit, coins = Containers(tmp_path / "limited"), 0.6 * free.billed, 500
    money = Money(limit / coins, "first")
    states = here.run([order(spec, money=money) for spec in SPECS], jar := Jar(coins), at_once)
    assert set(states) <= {"completed", "limit"}
    assert "limit" in states
    assert 0 < here.billed <= limit
    assert jar.count * money.coin_usd <= limit - here.billed
    stopped = [spec for spec, state in zip(SPECS, states, strict=True) if state == "limit"]
    assert limited(here.archive) == {str(here.attempts[spec.task_id][-1]) for spec in stopped}

    here.archive.submit(Kind.RESUME, stopped, "later")
    more = Money(free.billed, "second")
    again = [order(spec, submission=2, earlier=here.attempts[spec.task_id], money=more) for spec in stopped]
    assert set(here.run(again, Jar(100), 1)) == {"completed"}
    assert here.billed == pytest.approx(free.billed), "nothing is paid again"
    assert here.outcomes == free.outcomes
