"""The protocol between the harness and a model: one request, one completion.

Whatever a model is, it is asked through `complete`. Retrying, caching and metering wrap it like transports; none of
them is visible here. A call that cannot be answered raises `CallError`, with a kind that says whether asking again may
help.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

from utils.errors import CallError, ErrorKind
from utils.records import Completion, Request, Spend, Usage


class Unusable(CallError):
    """A try that was paid and gave no usable answer; `waste` is what it took, or, where nobody can know, at most."""

    def __init__(self, kind: ErrorKind, message: str, usage: Usage, usd: float | None) -> None:
        super().__init__(kind, message)
        self.waste = Spend.of_waste(usage, usd)


@runtime_checkable
class LLM(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str:
        """The model as named on the command line; part of every request's key."""

    async def complete(self, request: Request) -> Completion:
        """The answer to one request. Raises CallError."""

    def ceiling(self, request: Request) -> tuple[Usage, float | None]:
        """The most that this call can use, and its price in USD (None: unknown). What a budget reserves."""

    async def close(self) -> None:
        """Let go of connections."""


class Sponsor(Protocol):
    """Whoever pays for a call: told and asked by the layers that send it, as often as they do."""

    async def permit(self) -> None:
        """Asked right before each try is sent; may take a while. Raises Stop where nothing more may be sent."""

    def book(self, error: Unusable) -> None:
        """Enter a try that was paid and gave no usable answer."""

    def release(self) -> None:
        """A try came back that cost nothing: what was set aside for it is free, however long the next one waits."""

    def bears_another(self) -> bool:
        """True where one more paid try fits into what is left; it is set aside then."""


class Nobody:
    """The sponsor of calls that nobody keeps books of."""

    async def permit(self) -> None:
        """Everything may be sent."""

    def book(self, error: Unusable) -> None:
        """No books."""

    def release(self) -> None:
        """Nothing is set aside."""

    def bears_another(self) -> bool:
        return True


# Of the call that the current task of the event loop makes. It goes past the protocol, because only those two who
# speak of it know of it: the door, and whatever asks again.
sponsor: ContextVar[Sponsor] = ContextVar("sponsor", default=Nobody())  # noqa: B039  it holds nothing

DEFAULT_MAX_TOKENS = 1024  # of an answer, where the request does not say; every call is bounded
ANSWER_ROOM = 4096  # that stays for the answer beside a stated amount of thinking, where max_tokens asks for so much
THINKING_ROOM = 8192  # tokens, of a model that thinks and was not told how much
EFFORTS: Mapping[str, int] = {"none": 0, "disable": 0, "minimal": 1024, "low": 4096, "medium": THINKING_ROOM}
MUCH_EFFORT = 32_768  # tokens, of every other effort


def thinking_room(params: Mapping[str, Any], *, thinks: bool = False) -> int:
    """The tokens that thinking may take: as many as `thinking_budget`, `thinking` or `reasoning_effort` say, else those
    of a model that `thinks` by itself."""
    told = params.get("thinking")
    thinking = told if isinstance(told, Mapping) else {}
    for budget in (params.get("thinking_budget"), thinking.get("budget_tokens")):
        if budget is not None:
            return max(0, int(budget))
    if thinking.get("type") == "disabled":
        return 0
    if (effort := params.get("reasoning_effort")) is not None:
        return EFFORTS.get(str(effort), MUCH_EFFORT)
    return THINKING_ROOM if thinks or thinking else 0


def answer_limit(params: Mapping[str, Any], *, thinks: bool = False) -> int:
    """The `max_tokens` to send, thinking included: the one place where it is worked out.

    What is given counts, but always exceeds a stated amount of thinking, with room for the answer: providers refuse
    less. Where nothing is given, the default and the thinking have each their room.
    """
    given = params.get("max_completion_tokens") or params.get("max_tokens")
    if not given:
        return DEFAULT_MAX_TOKENS + thinking_room(params, thinks=thinks)
    stated = thinking_room(params)
    return max(int(given), stated + min(int(given), ANSWER_ROOM)) if stated else int(given)


def token_ceiling(request: Request, limit: int | None = None) -> Usage:
    """An upper bound of a request's tokens without a tokenizer.

    Two UTF-8 bytes a token bounds byte-pair encodings on ordinary text (English has about four); each message adds a
    few tokens of framing. The answer is bounded by `limit`, or by what `answer_limit` makes of the request; thinking is
    part of it.
    """
    text = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    tokens_out = answer_limit(request.params) if limit is None else limit
    return Usage(text // 2 + 16 * (1 + len(request.messages)), tokens_out, estimated=True)
