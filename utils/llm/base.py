"""The protocol between the harness and a model: one request, one completion.

Whatever a model is, it is asked through `complete`. Retrying, caching and metering wrap it like transports; none of
them is visible here. A call that cannot be answered raises `CallError`, with a kind that says whether asking again may
help.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol, runtime_checkable

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

    def permit(self) -> None:
        """Asked right before each try is sent. Raises Stop where nothing more may be sent."""

    def book(self, error: Unusable) -> None:
        """Enter a try that was paid and gave no usable answer."""

    def bears_another(self) -> bool:
        """True where one more paid try fits into what is left; it is set aside then."""


class Nobody:
    """The sponsor of calls that nobody keeps books of."""

    def permit(self) -> None:
        """Everything may be sent."""

    def book(self, error: Unusable) -> None:
        """No books."""

    def bears_another(self) -> bool:
        return True


# Of the call that the current task of the event loop makes. It goes past the protocol, because only those two who
# speak of it know of it: the door, and whatever asks again.
sponsor: ContextVar[Sponsor] = ContextVar("sponsor", default=Nobody())  # noqa: B039  it holds nothing

DEFAULT_MAX_TOKENS = 1024  # of an answer, where the request does not say; every call is bounded


def token_ceiling(request: Request) -> Usage:
    """An upper bound of a request's tokens without a tokenizer.

    Two UTF-8 bytes a token bounds byte-pair encodings on ordinary text (English has about four); each message adds a
    few tokens of framing. The answer is bounded by `max_tokens` (or `max_completion_tokens`), thinking included.
    """
    text = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    limit = request.params.get("max_completion_tokens") or request.params.get("max_tokens") or DEFAULT_MAX_TOKENS
    return Usage(text // 2 + 16 * (1 + len(request.messages)), int(limit), estimated=True)
