"""How much of the expected text an answer holds in order: ROUGE-L F1 (Lin, 2004), with Porter's stemmer.

Computed by the package `rouge-score`; texts are taken whole (rougeL, not rougeLsum). Its tokenizer keeps ASCII letters
and digits only, so equal texts are answered here: they score 1 in any script. The package (with nltk) is imported on
the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from utils.metrics.reasons import clip
from utils.records import Example, Score


@dataclass(frozen=True)
class RougeL:
    """ROUGE-L F1 of the answer against the target."""

    name: ClassVar[str] = "rouge_l"

    def __call__(self, example: Example, answer: str) -> Score:
        if answer.strip() == example.target.strip():
            return Score(1.0, "found the expected text")
        if not answer.strip():
            return Score(0.0, "found no text")
        score = _scorer().score(example.target, answer)["rougeL"]
        lengths = f"{len(answer.split())} words where {len(example.target.split())} are expected"
        reason = f"{score.recall:.0%} of the expected words in order, {score.precision:.0%} of the answer's; {lengths}"
        return Score(clip(score.fmeasure), reason)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
