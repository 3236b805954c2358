"""How a name becomes a metric, and what a user's own function may return."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from utils.errors import TaskError, UsageError
from utils.metrics.custom import FunctionMetric
from utils.metrics.registry import METRICS, find_metric
from utils.records import Example, Score

EXAMPLE = Example("row-1", {}, "x")


def test_a_name_of_the_table_is_its_row() -> None:
    assert find_metric("bleu") is METRICS["bleu"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown metric 'exact_macth'; did you mean 'exact_match'"):
        find_metric("exact_macth")


@pytest.fixture
def own_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metrics.py").write_text(
        "def half(example, answer):\n    return 0.5\n\nclass Odd:\n    pass\n\nNUMBER = 3\n"
    )
    (tmp_path / "broken_metrics.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_metrics")
@pytest.mark.parametrize("path", ["own_metrics:half", "own_metrics.half"])
def test_a_dotted_path_is_a_metric(path: str) -> None:
    metric = find_metric(path)
    assert isinstance(metric, FunctionMetric)
    assert metric.name == path
    assert metric(EXAMPLE, "anything") == Score(0.5)


@pytest.mark.usefixtures("own_metrics")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:f", "cannot import 'no_such_module'.*PYTHONPATH"),
        ("broken_metrics:f", "cannot import 'broken_metrics' \\(ZeroDivisionError"),
        ("own_metrics:third", "has no 'third'"),
        ("own_metrics:Odd", "is a class; name a function"),
        ("own_metrics:NUMBER", "is int; name a function"),
        ("own_metrics:", "package.module:function"),
        (".half", "package.module:function"),
        ("..", "package.module:function"),
        ("own..metrics:half", "cannot import"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_metric(path)


def returning(value: Any) -> FunctionMetric:
    return FunctionMetric("own:metric", lambda example, answer: value)


@pytest.mark.parametrize(("returned", "value"), [(True, 1.0), (0, 0.0), (0.25, 0.25), (Score(1, "why"), 1.0)])
def test_numbers_bools_and_scores_are_taken(returned: Any, value: float) -> None:
    assert returning(returned)(EXAMPLE, "a").value == value


@pytest.mark.parametrize(
    "returned", [1.01, -0.5, float("nan"), float("inf"), None, "1", [1], 10**400, Score(2.0), Score(float("nan"))]
)
def test_anything_else_ends_the_task_and_names_the_metric(returned: Any) -> None:
    with pytest.raises(TaskError, match=r"metric 'own:metric' returned .* on example 'row-1'; it must return"):
        returning(returned)(EXAMPLE, "a")


def test_an_exception_of_the_function_names_the_metric() -> None:
    def bad(example: Example, answer: str) -> float:
        return float(answer)

    with pytest.raises(TaskError, match="metric 'own:bad' raised ValueError on example 'row-1'"):
        FunctionMetric("own:bad", bad)(EXAMPLE, "x")


def test_a_metric_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metric_that_lies_here.py").write_text("def third(example, answer):\n    return 1 / 3\n")
    monkeypatch.setattr("sys.path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    assert find_metric("metric_that_lies_here:third")(EXAMPLE, "anything") == Score(1 / 3)


@pytest.mark.parametrize("path", ["os:system", "os.path:exists", "math:pow", "builtins:print"])
def test_a_function_that_is_no_metric_is_refused_by_what_it_takes(path: str) -> None:
    with pytest.raises(UsageError, match=r"a metric takes \(example, answer\)"):
        find_metric(path)
