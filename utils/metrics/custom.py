"""A user's own metric: a function `(example, answer) -> float | bool | Score`, named by its dotted path.

The function is trusted code of the user's, but not trusted to be right: what it returns is checked, and a defect in it
ends the task with an error that names it. It is never read as a score of 0.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from utils.errors import BenchmarkError, ErrorKind, TaskError, UsageError
from utils.metrics.base import JudgedMetric, Metric
from utils.records import Example, Score


@dataclass(frozen=True)
class FunctionMetric:
    """A function as a metric; its dotted path is the metric's name."""

    name: str
    function: Callable[[Example, str], Any]

    def __call__(self, example: Example, answer: str) -> Score:
        try:
            returned = self.function(example, answer)
        except BenchmarkError:
            raise
        except Exception as error:  # a user's function may raise anything; the task's log keeps the traceback
            problem = f"metric {self.name!r} raised {type(error).__name__} on example {example.id!r}: {error}"
            raise TaskError(ErrorKind.INTERNAL, problem) from error
        score = returned if isinstance(returned, Score) else Score(self._number(example, returned))
        value = self._number(example, score.value)
        if not 0 <= value <= 1:  # NaN too
            raise self._bad(example, score.value)
        return replace(score, value=value)

    def _number(self, example: Example, returned: Any) -> float:
        if isinstance(returned, str | bytes):  # float("1") would hide a slip
            raise self._bad(example, returned)
        try:
            return float(returned)
        except (TypeError, ValueError, OverflowError):
            raise self._bad(example, returned) from None

    def _bad(self, example: Example, value: Any) -> TaskError:
        shown = "NaN" if isinstance(value, float) and math.isnan(value) else repr(value)[:80]
        problem = f"metric {self.name!r} returned {shown} on example {example.id!r};"
        return TaskError(ErrorKind.INTERNAL, f"{problem} it must return a number in [0, 1], a bool or a Score")


def load_metric(path: str) -> Metric | JudgedMetric:
    """The metric at `package.module:function` (or `package.module.function`). UsageError if there is none."""
    module_name, _, attributes = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not attributes:
        raise UsageError(f"metric {path!r} is not of the form package.module:function")
    found: Any = _import(path, module_name)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise UsageError(f"metric {path!r}: {module_name!r} has no {attributes!r}; check the spelling")
        found = getattr(found, attribute)
    if isinstance(found, type) or not (callable(found) or isinstance(found, JudgedMetric)):
        kind = "a class" if isinstance(found, type) else type(found).__name__
        raise UsageError(f"metric {path!r} is {kind}; name a function (example, answer) -> number, or an instance")
    if isinstance(found, JudgedMetric):
        return found
    _refuse_other_signature(path, found)
    return FunctionMetric(path, found)


def _refuse_other_signature(path: str, function: Callable[..., Any]) -> None:
    """Raises UsageError for a function that cannot be called as a metric is: before a call is paid for its answer."""
    takes = "a metric takes (example, answer)"
    try:
        signature = inspect.signature(function)
        signature.bind(None, "")
    except ValueError:
        raise UsageError(f"metric {path!r} does not say what it takes; {takes}: write a function around it") from None
    except TypeError:
        raise UsageError(f"metric {path!r} takes {signature}; {takes}") from None
    if inspect.isbuiltin(function):
        raise UsageError(f"metric {path!r} is built into Python and takes {signature}; {takes}")


def _import(path: str, module_name: str) -> Any:
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a metric may lie where the command is typed
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        problem = f"metric {path!r}: cannot import {module_name!r} ({type(error).__name__}: {error})"
        raise UsageError(f"{problem}; is it in the current folder, or on PYTHONPATH?") from error
