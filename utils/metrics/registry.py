"""The table of metrics, and how a name on the command line becomes one.

A metric's name is its module's. Values are in [0, 1] and higher is better for every row, as `base` demands. Importing
this table is cheap: the libraries behind the metrics are imported on their first call.
"""

from __future__ import annotations

from collections.abc import Mapping

from utils.errors import unknown
from utils.metrics.base import JudgedMetric, Metric
from utils.metrics.bleu import Bleu
from utils.metrics.custom import load_metric
from utils.metrics.exact_match import ExactMatch
from utils.metrics.label_accuracy import LabelAccuracy
from utils.metrics.levenshtein_ratio import LevenshteinRatio
from utils.metrics.llm_judge import LLMJudge
from utils.metrics.numeric_match import NumericMatch
from utils.metrics.option_letter import OptionLetter
from utils.metrics.rouge_l import RougeL
from utils.metrics.semantic_similarity import SemanticSimilarity
from utils.metrics.token_f1 import TokenF1

METRICS: Mapping[str, Metric | JudgedMetric] = {
    "numeric_match": NumericMatch(),
    "option_letter": OptionLetter(),
    "label_accuracy": LabelAccuracy(),
    "token_f1": TokenF1(),
    "exact_match": ExactMatch(),
    "rouge_l": RougeL(),
    "bleu": Bleu(),
    "levenshtein_ratio": LevenshteinRatio(),
    "semantic_similarity": SemanticSimilarity(),
    "llm_judge": LLMJudge(),
}


def find_metric(name: str) -> Metric | JudgedMetric:
    """The metric of that name in `METRICS`, or at that dotted path. UsageError if there is none."""
    if name in METRICS:
        return METRICS[name]
    if "." in name or ":" in name:
        return load_metric(name)
    raise unknown("metric", name, METRICS)
