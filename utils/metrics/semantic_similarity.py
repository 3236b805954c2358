"""How near in meaning an answer is to the expected text: the cosine of their embeddings, clipped to [0, 1].

The question holds the two texts, a message each; the reply's text is their cosine. Who asks, and which embedding model
answers, is not decided here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from utils.errors import CallError, ErrorKind
from utils.metrics.reasons import clip, quote
from utils.records import Completion, Example, Message, Request, Score

NO_TEXT = "(no text)"  # embedding endpoints refuse an empty input


@dataclass(frozen=True)
class SemanticSimilarity:
    """The cosine of the embeddings of the answer and the target; an empty answer scores 0."""

    name: ClassVar[str] = "semantic_similarity"
    needs: ClassVar[Literal["embedding"]] = "embedding"

    def question(self, example: Example, answer: str) -> Request:
        texts = (example.target, answer)
        return Request(tuple(Message("user", text if text.strip() else NO_TEXT) for text in texts), item=example.id)

    def read(self, example: Example, answer: str, reply: Completion) -> Score:
        if not answer.strip():
            return Score(0.0, "found no text")
        cosine = _number(reply.text)
        return Score(
            clip(cosine), f"cosine {cosine:.2f}: expected something like {quote(example.target)}, found {quote(answer)}"
        )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = f"semantic_similarity: the embedding model's reply {quote(text)} is not a finite number"
        raise CallError(ErrorKind.MALFORMED, message)
    return value
