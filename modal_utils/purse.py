"""The money of a run on Modal, which containers share that know nothing of each other: coins in a queue.

A dispatch puts what is left of the run's limit into a partition of a queue, in coins of equal worth. A container takes
the coins that its next calls may cost, which no other then has; it keeps the change, and gives back what it has whole
when its task ends. What nobody holds nobody can spend: the limit holds whatever becomes of containers. The coins of a
lost one are lost with it, until the next dispatch counts what was really paid.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import modal

from modal_utils.deployment import explained
from utils.errors import Drained, ErrorKind, TaskError, Unreachable
from utils.serialization import content_hash

logger = logging.getLogger("benchmark")

QUEUE = "optimizer-benchmarks-purses"  # a partition for each dispatch that has a limit
COINS = 2000  # of a dispatch; a partition takes 5,000
PAUSES_S = (1.0, 5.0, 15.0, 60.0, 120.0)  # between the tries of a purse that does not answer
KEPT_S = 7 * 24 * 3600  # that Modal keeps a partition which nobody uses; without coins tasks stop, and can be resumed


@dataclass(frozen=True)
class Money:
    """What a dispatch may spend, as an order tells it."""

    coin_usd: float
    partition: str


class Coins(Protocol):
    """Where the coins are that nobody holds."""

    def take(self, count: int) -> int:
        """Take so many, or as many as there are; how many."""

    def give(self, count: int) -> None:
        """Give so many back."""


class QueuedCoins:
    """Coins in a partition of Modal's queue. A coin leaves it once, and an exchange that is repeated is one."""

    def __init__(self, partition: str) -> None:
        self._queue = modal.Queue.from_name(QUEUE, create_if_missing=True)
        self._partition = partition

    def take(self, count: int) -> int:
        return len(patiently(lambda: self._queue.get_many(count, block=False, partition=self._partition)))

    def give(self, count: int) -> None:
        """Tried once: given twice, coins would be worth more than the limit."""
        self._queue.put_many([1] * count, block=False, partition=self._partition, partition_ttl=KEPT_S)


def patiently(exchange: Callable[[], Any], sleep: Callable[[float], object] = time.sleep) -> Any:
    """The same, tried again for minutes while Modal does not answer. Raises TaskError when it stays so."""
    for pause_s in (*PAUSES_S, None):
        try:
            with explained():
                return exchange()
        except Unreachable as error:
            if pause_s is None:
                raise TaskError(ErrorKind.TRANSIENT, f"the run's purse: {error}") from None
            sleep(pause_s)
    return None


def fill(run_id: str, submission: int, left_usd: float) -> Money:
    """Coins for a dispatch, worth together what is left of the run's limit."""
    money = Money(left_usd / COINS, content_hash([run_id, submission], 32))
    QueuedCoins(money.partition).give(COINS)
    return money


class Share:
    """What one container holds of the run's money; the purse of its door."""

    def __init__(self, coins: Coins, coin_usd: float) -> None:
        self._coins = coins
        self._coin_usd = coin_usd
        self._held = 0.0  # and not paid
        self._reserved = 0.0  # of that, for calls that are open
        self._open = 0
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        self.is_empty = False  # once the coins did not suffice

    async def reserve(self, usd: float) -> None:
        """Set money aside for a call, of what is held or of coins that are taken; the open calls of this container may
        have to give theirs back first. Raises Drained where that does not suffice either."""
        async with self._turn:
            while (missing := self._reserved + usd - self._held) > 0:
                self._settled.clear()
                # on a thread: Modal's client does not like to be waited for within an event loop
                taken = await asyncio.to_thread(self._coins.take, math.ceil(missing / self._coin_usd))
                self._held += taken * self._coin_usd
                if self._reserved + usd <= self._held:
                    break
                if not self._open:
                    self.is_empty = True
                    raise Drained("run_budget", f"the run's limit of money has no room for another ${usd:.4f}")
                await self._settled.wait()
            self._reserved += usd
            self._open += usd > 0

    def settle(self, reserved: float, paid: float) -> None:
        """Give back what was set aside for a call, and enter what was paid."""
        self._reserved = max(0.0, self._reserved - reserved)
        self._held -= paid
        self._open -= reserved > 0
        self._settled.set()

    def give_back(self) -> None:
        """Give the whole coins back that are left, when no call is open any more. What cannot be given is lost."""
        whole = math.floor((self._held - self._reserved) / self._coin_usd)
        if whole > 0:
            self._held -= whole * self._coin_usd
            try:
                self._coins.give(whole)
            except Exception:  # whatever it is: it must cost no result
                logger.warning("%d coins could not be given back", whole, exc_info=True)
