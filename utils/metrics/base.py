"""What a metric is: an answer to one example becomes a score in [0, 1], higher better, with a reason.

A metric is a callable with a name. One that needs a model declares it: it says what to ask and how to read the reply,
and whoever scores does the asking, so that judge calls are journalled, charged and limited like all others.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from utils.records import Completion, Example, Request, Score


@runtime_checkable
class Metric(Protocol):
    """A score that follows from the answer alone."""

    @property
    def name(self) -> str: ...

    def __call__(self, example: Example, answer: str) -> Score:
        """The score of an answer. Never raises for any text an answer may hold."""


@runtime_checkable
class JudgedMetric(Protocol):
    """A score that a model gives: an LLM judge, or an embedding."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Literal["chat", "embedding"]:
        """`chat` or `embedding`: the kind of model that answers `question`."""

    def question(self, example: Example, answer: str) -> Request:
        """What to ask the judge about an answer."""

    def read(self, example: Example, answer: str, reply: Completion) -> Score:
        """The judge's reply as a score. Raises CallError (malformed) where the reply holds none."""
