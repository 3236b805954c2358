"""Small scripted models that implement the protocol of `utils/llm/base.py`: no network, no clock, a price of their own.

A script is a function of the request and of how many calls the model has had before; what it returns is the text of the
answer, or a `CallError`, which is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from utils.errors import CallError, ErrorKind
from utils.llm.base import token_ceiling
from utils.records import Completion, Request, Usage

Script = Callable[[Request, int], str | CallError]


class Scripted:
    """A model that answers by a function. `requests` is what it was asked, in the order in which it was asked.

    A call costs `cost_usd` whatever its length (None: no known price), which is also its ceiling; words are tokens.
    """

    def __init__(self, answer: Script, name: str = "scripted", cost_usd: float | None = 0.001) -> None:
        self._answer = answer
        self._cost_usd = cost_usd
        self.name = name
        self.requests: list[Request] = []
        self.closed = 0

    async def complete(self, request: Request) -> Completion:
        count = len(self.requests)
        self.requests.append(request)
        answer = self._answer(request, count)
        await self.pause(count)
        if isinstance(answer, CallError):
            raise answer
        return Completion(answer, self.usage(request, answer), self._cost_usd, model=self.name)

    async def pause(self, count: int) -> None:
        """Lets the other calls in flight go on."""
        await asyncio.sleep(0)

    def usage(self, request: Request, answer: str) -> Usage:
        return Usage(sum(len(message.content.split()) for message in request.messages), len(answer.split()))

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        return token_ceiling(request), self._cost_usd

    async def close(self) -> None:
        self.closed += 1


class Shuffled(Scripted):
    """Answers that come in another order than the questions went out: the n-th call waits `turns(n)` loop turns."""

    def __init__(self, answer: Script, turns: Callable[[int], int], name: str = "scripted") -> None:
        super().__init__(answer, name)
        self._turns = turns
        self.most_open = 0
        self._open = 0

    async def pause(self, count: int) -> None:
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        for _ in range(1 + self._turns(count)):
            await asyncio.sleep(0)
        self._open -= 1


def constant(text: str) -> Scripted:
    """A model with one answer to everything."""
    return Scripted(lambda request, count: text)


def listed(*answers: str | CallError) -> Scripted:
    """A model that says these, one after the other; asked more often than that is a defect of the test."""
    return Scripted(lambda request, count: answers[count])


def fickle() -> Scripted:
    """A model that never gives the same answer twice."""
    return Scripted(lambda request, count: f"answer {count}")


def failing(kind: ErrorKind = ErrorKind.BAD_REQUEST, message: str = "no", name: str = "scripted") -> Scripted:
    """A model that answers nothing."""
    return Scripted(lambda request, count: CallError(kind, message), name)
