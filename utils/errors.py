"""Every way in which a run can go wrong, and the moment each is raised.

    BenchmarkError                  one line: the thing, the value, the way out
    ├── UsageError                  before anything is spent: bad names, values, files (exit code 2)
    │   ├── MissingKey              a model's key is not where it would be asked from
    │   ├── Unreachable             a service does not answer now; asked again later it may
    │   └── Damaged                 a file of a run cannot be read, and nothing is done instead of reading it
    ├── CallError                   a model call failed for good, after its retries; `kind` says how
    └── TaskError                   a task cannot go on: too many failed calls, a worker lost, a deadline passed
        └── NoEdits                 the optimizer model gave nothing at all that could be tried
    Stop (BaseException)            the end of an optimizer's loop, raised by the door
    ├── BudgetExhausted             a batch does not fit into what is left
    ├── OptimizerFailed             the editor gave no usable candidate, time after time
    └── Drained                     the run was asked to stop; what was in flight is in the journal

`Stop` is a `BaseException` because third-party optimizers swallow `Exception`: a spent budget must never be read as a
score of 0. It is caught in one place, `benchmark_task.run_task`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import StrEnum


class BenchmarkError(Exception):
    """The root of all errors that a user can mend."""


class UsageError(BenchmarkError):
    """Bad input, refused before anything is spent."""


class MissingKey(UsageError):
    """A model's key is not in the environment; `variables` names what is missing."""

    def __init__(self, message: str, variables: str) -> None:
        super().__init__(message)
        self.variables = variables


class Unreachable(UsageError):
    """A service on which a command depends does not answer now, and may later."""


class Damaged(UsageError):
    """A file of a run is not what was written: emptied, cut, changed, or of a newer version."""


class ErrorKind(StrEnum):
    """What went wrong with a model call or a task; decides whether it is tried again."""

    AUTH = "auth"  # the provider refuses the key: its tasks stop
    QUOTA = "quota"  # the account is out of credit: its tasks stop
    UNAVAILABLE = "unavailable"  # the provider answers nobody any more: its tasks stop
    BAD_REQUEST = "bad_request"  # this request will never be answered
    CONTENT_FILTER = "content_filter"  # the provider declined to answer this text
    CONTEXT_LENGTH = "context_length"  # more tokens than the model reads
    TRANSIENT = "transient"  # rate limit, server error, lost connection, timeout: tried again
    MALFORMED = "malformed"  # an answer that is not one: tried again
    TIMEOUT = "timeout"  # the task passed its deadline
    CRASH = "crash"  # the worker process died
    DAMAGED = "damaged"  # its result was written, and cannot be read
    INTERNAL = "internal"  # a defect in this program or in a plug-in

    @property
    def is_retryable(self) -> bool:
        """True where asking the same again may help."""
        return self in (ErrorKind.TRANSIENT, ErrorKind.MALFORMED)

    @property
    def stops_provider(self) -> bool:
        """True where no further call to this provider can succeed."""
        return self in (ErrorKind.AUTH, ErrorKind.QUOTA, ErrorKind.UNAVAILABLE)


class CallError(BenchmarkError):
    """A model call that failed for good. `model` is set by the door where no further call of that model can succeed."""

    model = ""

    def __init__(self, kind: ErrorKind, message: str, *, retry_after_s: float | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s
        self.attempts = attempts


class TaskError(BenchmarkError):
    """A task that cannot go on; ends as a failed result of this kind."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class NoEdits(TaskError):
    """A search that could not search: every edit failed, was refused or was of no use. Tried again, it asks anew."""


class Stop(BaseException):
    """Ends an optimizer's loop; `reason` is a value of `records.StopReason`."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class BudgetExhausted(Stop):
    """The next batch does not fit into what is left of the budget; nothing of it was sent."""


class OptimizerFailed(Stop):
    """The editor gave no valid new candidate in several proposal steps in a row."""


class Drained(Stop):
    """The run was asked to stop; answers in flight were journalled first."""


LONGEST_ECHO = 200  # characters of a value that an error repeats
LONGEST_LINE = 2000
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def cut(text: str) -> str:
    """The text as far as an error repeats it.

    >>> cut("a" * 300) == "a" * 200 + "..."
    True
    """
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}..."


def one_line(message: str) -> str:
    """A message as it may stand in a terminal: one line, no control characters, no value longer than it helps.

    >>> one_line("metric 'a\x1b[2J' raised:\n  no")
    "metric 'a [2J' raised: no"
    """
    words = [cut(word) for word in CONTROL.sub(" ", message).split()]
    quoted = re.sub(rf"'([^']{{{LONGEST_ECHO}}})[^']+'", r"'\1...'", " ".join(words))
    return quoted if len(quoted) <= LONGEST_LINE else f"{quoted[:LONGEST_LINE]}..."


def refused_by_system(error: OSError) -> str:
    """What the operating system says, with the file it says it of.

    >>> refused_by_system(OSError(28, "No space left on device", "runs/r/plan.json"))
    "'runs/r/plan.json': No space left on device; mend that and give the command again"
    """
    where = f"{error.filename!r}: " if error.filename else ""
    return f"{where}{error.strerror or error}; mend that and give the command again"


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a table, with the nearest known one.

    >>> str(unknown("optimizer", "few_shoot", ["few_shot", "no_op"]))
    "unknown optimizer 'few_shoot'; did you mean 'few_shot'? known: few_shot, no_op"
    """
    names = sorted(known)
    near = difflib.get_close_matches(cut(name), names, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {kind} {cut(name)!r};{hint} known: {', '.join(names) or 'none'}")
