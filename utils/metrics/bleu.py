"""How many of an answer's word sequences are the expected text's: sentence BLEU / 100 (Papineni et al., 2002).

Computed by `sacrebleu` (Post, 2018) with effective order, so that a text of fewer than four words can score 1. Equal
texts, which it scores 0 when they are empty, are answered here. The package is imported on the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from utils.metrics.reasons import clip, quote
from utils.records import Example, Score


@dataclass(frozen=True)
class Bleu:
    """Sentence BLEU of the answer against the target."""

    name: ClassVar[str] = "bleu"

    def __call__(self, example: Example, answer: str) -> Score:
        if answer.strip() == example.target.strip():
            return Score(1.0, "found the expected text")
        if not answer.strip():
            return Score(0.0, "found no text")
        result = _bleu().sentence_score(answer, [example.target])
        shares = ", ".join(f"{share:.0f}%" for share in result.precisions)
        reason = f"expected {quote(example.target)}; shared runs of 1-4 words: {shares}"
        if result.bp < 1:
            reason += f"; too short: {result.sys_len} tokens where {result.ref_len} are expected"
        return Score(clip(result.score / 100), reason)


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)
