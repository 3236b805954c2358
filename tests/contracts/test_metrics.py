"""What every row of METRICS keeps.

1. It is called by its module's name and by nothing else.
2. Its value lies in [0, 1] for any text, with a reason on one line; it never raises.
3. The target, given as the answer, scores 1.
4. A metric that needs a model asks a request that names its example, and reads nonsense as a failed call.
5. Importing the table imports no library behind a metric.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import CallError
from utils.metrics.base import JudgedMetric, Metric
from utils.metrics.registry import METRICS
from utils.records import Completion, Example, Usage

PLAIN = sorted(name for name, metric in METRICS.items() if not isinstance(metric, JudgedMetric))
JUDGED = sorted(set(METRICS) - set(PLAIN))
TARGETS = {
    "numeric_match": ("so 1,234\n#### 1,234", ()),
    "option_letter": ("A", ("A", "B", "C", "D")),
    "label_accuracy": ("Harmful Application", ("Harmful Application", "Harmless Application")),
}
FREE_TEXT = ("The police killed the gunman in Paris.", ())

# any text, lone surrogates included, and texts made of what metrics look for
PIECES = [
    *"ABCDab",
    "Answer:",
    "the answer is",
    "####",
    "1,000",
    "-5",
    "3/4",
    "not",
    "Harmful Application",
    "\n",
    "**",
    "(",
]
ANSWERS = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cs", "Cc", "Nd", "Po"])),
    st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
)


def example_of(name: str) -> Example:
    target, choices = TARGETS.get(name, FREE_TEXT)
    return Example("row-1", {"question": "Why?"}, target, choices)


def plain(name: str) -> Metric:
    metric = METRICS[name]
    assert isinstance(metric, Metric)
    return metric


def judged(name: str) -> JudgedMetric:
    metric = METRICS[name]
    assert isinstance(metric, JudgedMetric)
    return metric


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_is_called_by_its_modules_name(name: str) -> None:
    assert METRICS[name].name == name
    assert type(METRICS[name]).__module__ == import_module(f"utils.metrics.{name}").__name__


def test_every_metric_module_is_in_the_table() -> None:
    folder = Path(import_module("utils.metrics").__file__ or "").parent
    not_metrics = {"__init__", "base", "registry", "custom", "reasons", "announcement", "cross_entropy"}
    assert {path.stem for path in folder.glob("*.py")} - not_metrics == set(METRICS)


@pytest.mark.parametrize("name", PLAIN)
@given(answer=ANSWERS)
def test_any_answer_has_a_score_in_bounds(name: str, answer: str) -> None:
    score = plain(name)(example_of(name), answer)
    assert 0 <= score.value <= 1
    assert score.reason
    assert "\n" not in score.reason


@pytest.mark.parametrize("name", PLAIN)
@given(target=st.text(), answer=ANSWERS)
def test_any_target_is_borne(name: str, target: str, answer: str) -> None:
    assert 0 <= plain(name)(Example("row-1", {}, target), answer).value <= 1


@pytest.mark.parametrize("name", PLAIN)
def test_the_target_scores_one(name: str) -> None:
    example = example_of(name)
    assert plain(name)(example, example.target).value == 1.0


@pytest.mark.parametrize("name", sorted(set(PLAIN) - set(TARGETS)))
@given(target=st.text())
def test_any_text_scores_one_against_itself(name: str, target: str) -> None:
    assert plain(name)(Example("row-1", {}, target), target).value == 1.0


@pytest.mark.parametrize("name", PLAIN)
def test_no_text_scores_zero(name: str) -> None:
    assert plain(name)(example_of(name), "").value == 0.0


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("piece", ["\n", " ", "answer is ", "#", "9", "1/", "A, ", "no ", "(", "a b "])
def test_a_degenerate_answer_is_read_in_linear_time(name: str, piece: str) -> None:
    # a quadratic reading of this takes minutes, a linear one milliseconds
    start = time.process_time()
    assert 0 <= plain(name)(example_of(name), piece * 20_000).value <= 1
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", JUDGED)
@given(answer=ANSWERS)
def test_a_judged_metric_can_ask_about_any_answer(name: str, answer: str) -> None:
    metric = judged(name)
    request = metric.question(example_of(name), answer)
    assert metric.needs in ("chat", "embedding")
    assert request.item == "row-1"
    assert all(message.content.strip() for message in request.messages)


@pytest.mark.parametrize("name", JUDGED)
@given(text=st.text())
def test_a_judges_reply_is_a_score_in_bounds_or_a_failed_call(name: str, text: str) -> None:
    try:
        score = judged(name).read(example_of(name), "an answer", Completion(text, Usage(1, 1), 0.0))
    except CallError:
        return
    assert 0 <= score.value <= 1


def test_importing_the_table_imports_no_heavy_library() -> None:
    heavy = ["rouge_score", "nltk", "sacrebleu", "rapidfuzz", "numpy"]
    code = f"import sys, utils.metrics.registry; print([name for name in {heavy} if name in sys.modules])"
    root = Path(import_module("utils").__file__ or "").parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
