"""The words of the harness: everything that is passed on, written down or shown.

Frozen dataclasses, no behaviour beyond what follows from their own fields. Scores are in [0, 1], higher is better;
money is USD; times are seconds. What one holds is said here; who makes it and what is done with it lives elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from utils.errors import ErrorKind
from utils.prompt import Prompt
from utils.serialization import content_hash, dumps, encode

# --------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Example:
    """One row as the harness sees it.

    `choices` are the answers that can be given, where the task has such a list (option letters, labels).
    """

    id: str
    inputs: Mapping[str, str]
    target: str
    choices: tuple[str, ...] = ()


class Split(StrEnum):
    """Disjoint parts of a dataset. An optimizer holds train and validation, never test."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Splits:
    """Disjoint examples of a dataset, and a hash of them.

    `notes` are sentences for whoever reads the scores: rows left out, rows that are not the hub's, no fixed revision.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    data_hash: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    revisions: Mapping[str, str] = field(default_factory=dict, compare=False)  # dataset of the hub -> its commit

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that every example has, in the order of the first."""
        examples = (*self.train, *self.validation, *self.test)
        shared = set.intersection(*(set(example.inputs) for example in examples)) if examples else set()
        return tuple(name for name in examples[0].inputs if name in shared) if examples else ()


@dataclass(frozen=True)
class Score:
    """What a metric says of one answer: a value in [0, 1], and a reason that an editor can read.

    `found` is False where the metric looked for something in the answer (a letter, a label, a number) and it is not
    there; the value is 0 then.
    """

    value: float
    reason: str = ""
    found: bool = True


# --------------------------------------------------------------------------- model calls


@dataclass(frozen=True)
class Message:
    """One chat message; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """One question to a model.

    `sample` tells apart repeats that should differ (the optimizer model at temperature 1). `item` and `prompt` are the
    ids of the example asked and of the prompt used; they are for traces and for the simulated models. `occurrence` says
    how often the task asked the same before; the door fills it in. These three are never sent to a provider, and are
    not part of the key.
    """

    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    sample: int = 0
    item: str = ""
    prompt: str = ""
    occurrence: int = 0

    def key(self, model: str) -> str:
        """A hash of everything that decides the answer."""
        return content_hash([model, self.messages, self.params, self.schema, self.sample], length=32)

    @property
    def is_deterministic(self) -> bool:
        """True where the same request may be answered from a cache: temperature 0, said outright."""
        return self.params.get("temperature") == 0


@dataclass(frozen=True)
class Usage:
    """Tokens of one call. `reasoning` is part of `tokens_out`; None where the provider does not say."""

    tokens_in: int
    tokens_out: int
    reasoning: int | None = None
    estimated: bool = False  # counted here, because the provider gave no usage


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer, its log-probability (nats) and the likeliest tokens at its place."""

    token: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """A model's answer. `cost_usd` is None where no price is known, which is not the same as free."""

    text: str
    usage: Usage
    cost_usd: float | None
    latency_s: float = 0.0
    finish_reason: str = "stop"
    logprobs: tuple[TokenLogprob, ...] | None = None
    model: str = ""  # as the provider named it in its answer
    attempts: int = 1
    cached: bool = False  # answered by the run's cache: charged, not billed
    thinking: str = ""  # what the model thought before it answered, where the provider shows it


class Role(StrEnum):
    """Who a call is for; ledgers keep them apart."""

    TASK = "task"  # answers examples
    OPTIMIZER = "optimizer"  # edits prompts
    JUDGE = "judge"  # grades answers


# --------------------------------------------------------------------------- money


@dataclass(frozen=True)
class Budget:
    """What one task may spend; None is no limit. The final scoring on test is not part of it."""

    task_calls: int = 1000
    optimizer_calls: int | None = None  # None: as many as task calls
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Spend:
    """What was used. `usd` is None as soon as one call in it has no known price.

    `tokens_estimated` are those of `tokens_in` and `tokens_out` that no provider told: bounds, not counts.
    """

    task_calls: int = 0
    optimizer_calls: int = 0
    judge_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = 0.0
    tokens_estimated: int = 0

    def __add__(self, other: Spend) -> Spend:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Spend(
            self.task_calls + other.task_calls,
            self.optimizer_calls + other.optimizer_calls,
            self.judge_calls + other.judge_calls,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            usd,
            self.tokens_estimated + other.tokens_estimated,
        )

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    @property
    def calls(self) -> int:
        return self.task_calls + self.optimizer_calls + self.judge_calls

    @staticmethod
    def of(role: Role, usage: Usage, usd: float | None) -> Spend:
        """One call of a role."""
        return Spend(
            int(role is Role.TASK),
            int(role is Role.OPTIMIZER),
            int(role is Role.JUDGE),
            usage.tokens_in,
            usage.tokens_out,
            usd,
            usage.tokens_in + usage.tokens_out if usage.estimated else 0,
        )

    @staticmethod
    def of_waste(usage: Usage, usd: float | None) -> Spend:
        """One try that gave no usable answer: no call, but tokens and money."""
        return replace(Spend.of(Role.TASK, usage, usd), task_calls=0)


@dataclass(frozen=True)
class Accounts:
    """`logical` is charged, the same with or without a cache; `billed` is what was really paid, lost tries included."""

    logical: Spend = Spend()
    billed: Spend = Spend()


@dataclass(frozen=True)
class Forecast:
    """How many calls an optimizer will make: the least, the likely and the most. Made by `Optimizer.plan`."""

    task_calls: tuple[int, int, int]
    optimizer_calls: tuple[int, int, int] = (0, 0, 0)


# --------------------------------------------------------------------------- trials and steps


class Flaw(StrEnum):
    """What can be wrong with the form of an answer; it is scored nevertheless."""

    CUT = "cut"  # by max_tokens
    EMPTY = "empty"
    REFUSED = "refused"  # held back by a content filter; where nothing of it came, the call has failed
    UNPARSABLE = "unparsable"  # the metric found nothing to score


@dataclass(frozen=True)
class ItemScore:
    """One example of a trial: an answer with its score, or an error. Never both, and never 0 for an error."""

    example_id: str
    answer: str | None = None
    score: Score | None = None
    error: ErrorKind | None = None
    error_message: str = ""
    tokens_out: int = 0
    also: Mapping[str, float] = field(default_factory=dict)  # the dataset's other metrics on the same answer
    cross_entropy: float | None = None  # nats, of the expected answer; where log-probabilities were asked for
    ce_source: str = ""  # logprobs, or samples: numbers of different sources are never compared
    flaw: Flaw | None = None
    thinking: str = ""  # how the thinking before the answer began, where the provider shows it: for critiques


@dataclass(frozen=True)
class Evaluation:
    """A trial: one prompt scored on one set of examples, in their order."""

    prompt: Prompt
    split: Split
    items: tuple[ItemScore, ...]

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The scores of the answered items."""
        return tuple(item.score.value for item in self.items if item.score is not None)

    @property
    def failed(self) -> int:
        """Items whose call failed; they are in no mean."""
        return len(self.items) - len(self.values)

    @cached_property
    def mean(self) -> float:
        """Mean score of the answered items, in [0, 1]; NaN if none was answered."""
        return math.fsum(self.values) / len(self.values) if self.values else math.nan

    def mean_of(self, metric: str) -> float:
        """The mean of another metric of the dataset over the items that have it; of no name, the objective's."""
        if not metric:
            return self.mean
        values = [item.also[metric] for item in self.items if metric in item.also]
        return math.fsum(values) / len(values) if values else math.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """The mean with every failed item read as 0, and as 1."""
        if not self.items:
            return (math.nan, math.nan)
        total = math.fsum(self.values)
        return (total / len(self.items), (total + self.failed) / len(self.items))

    @property
    def tokens(self) -> float:
        """Mean tokens of an answer, reasoning included; NaN if none was answered."""
        spent = [item.tokens_out for item in self.items if item.score is not None]
        return sum(spent) / len(spent) if spent else math.nan

    def failures(self, below: float = 1.0) -> tuple[ItemScore, ...]:
        """The answered items that score under `below`, worst first; ties in the order of the items."""
        bad = [item for item in self.items if item.score is not None and item.score.value < below]
        return tuple(sorted(bad, key=lambda item: item.score.value if item.score else 0.0))


class StopReason(StrEnum):
    """Why an optimizer's loop ended."""

    BUDGET_CALLS = "budget_calls"
    BUDGET_TOKENS = "budget_tokens"
    BUDGET_USD = "budget_usd"
    BUDGET_SECONDS = "budget_seconds"
    TARGET_REACHED = "target_reached"
    NO_IMPROVEMENT = "no_improvement"
    CONVERGED = "converged"
    MAX_ITERATIONS = "max_iterations"
    EXHAUSTED = "exhausted"  # nothing is left to try
    OPTIMIZER_FAILED = "optimizer_failed"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Step:
    """One decision of an optimizer, with what it was made on."""

    index: int
    operator: str
    decision: str  # accept, reject, retire, duplicate, malformed, invalid, skip
    reason: str
    parents: tuple[str, ...] = ()  # prompt ids
    candidate: Prompt | None = None
    diff: str = ""  # from the first parent to the candidate
    numbers: Mapping[str, float] = field(default_factory=dict)  # what was compared
    spent: Spend = Spend()  # logical, when the decision was made


# --------------------------------------------------------------------------- tasks and runs

LONGEST_LABEL = 40  # characters of a parameter that is a text, where cells are named


LATER_FIELDS: Mapping[str, Any] = {
    "max_failed_share": 0.1,
    "split": "",
}  # of a TaskSpec, younger than runs that must go on: their value in those runs


@dataclass(frozen=True)
class TaskSpec:
    """One cell of the grid, with all that decides its result. Its id is a hash of all of it.

    `optimizer_files` are the files that texts among `optimizer_params` came from, by parameter: for whoever reads a
    table. They decide nothing, and are not in the id.
    """

    dataset: str
    optimizer: str
    model: str
    seed: int
    optimizer_params: Mapping[str, Any] = field(default_factory=dict)
    model_params: Mapping[str, Any] = field(default_factory=dict)
    optimizer_model: str = ""  # empty: the task model
    judge_model: str = ""  # empty: the task model
    data: str = "hub"  # hub, sample, or a folder
    dataset_csv: str = ""  # own data: the file of a `csv` dataset
    split: str = ""  # of own data: the shares of train, validation and test, as 0.25/0.25/0.5; empty: these
    test_mode: bool = False
    budget: Budget = Budget()
    prompt: Prompt | None = None  # in place of the dataset's seed prompt
    metric: str = ""  # in place of the dataset's first metric
    optimizer_files: Mapping[str, str] = field(default_factory=dict)
    max_failed_share: float = 0.1  # of the task calls; the task fails where more of them do, for certain

    @cached_property
    def task_id(self) -> str:
        """A readable slug and a short hash of the full spec."""
        words = (self.dataset, self.optimizer, self.model.rpartition("/")[2], f"s{self.seed}")
        slug = "-".join(re.sub(r"[^A-Za-z0-9._]", "_", word)[:28] for word in words).lstrip(".")
        return f"{slug}-{content_hash(self._identity(), 8)}"

    def _identity(self) -> dict[str, Any]:
        """What the id is made from: a field that a run did not know yet must not change its ids."""
        fields = encode(self)
        del fields["optimizer_files"]
        return {name: value for name, value in fields.items() if LATER_FIELDS.get(name, ...) != value}

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is asked, the task model first."""
        return tuple(dict.fromkeys(filter(None, (self.model, self.optimizer_model, self.judge_model))))

    @property
    def is_simulated(self) -> bool:
        """True where any answer comes from a simulated model: then the figures are no evidence about real ones."""
        return any(name.startswith("sim/") for name in self.models)

    @property
    def optimizer_label(self) -> str:
        """The optimizer and its overridden parameters, as they are written on the command line."""
        if not self.optimizer_params:
            return self.optimizer
        params = ",".join(f"{name}={_bare(value)}" for name, value in self.shown_params.items())
        return f"{self.optimizer}:{params}"

    @property
    def shown_params(self) -> dict[str, Any]:
        """The overridden parameters as they were typed: a text that came from a file is shown by the file's name."""
        return {name: self.optimizer_files.get(name, value) for name, value in self.optimizer_params.items()}


@dataclass(frozen=True)
class RunPlan:
    """A run: its tasks and what they were made from. Written before the first dispatch, never changed."""

    run_id: str
    created: str  # ISO-8601, UTC
    tasks: tuple[TaskSpec, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    data_hashes: Mapping[str, str] = field(default_factory=dict)  # dataset -> hash of the rows used
    revisions: Mapping[str, str] = field(default_factory=dict)  # dataset of the hub -> the commit that was read
    code: Mapping[str, str] = field(default_factory=dict)  # module that decides results -> hash of its source


@dataclass(frozen=True)
class Progress:
    """How far a running task is, for whoever watches."""

    task_id: str
    phase: str  # loading, optimizing, scoring
    task_calls: int = 0  # charged to the budget so far
    best: float | None = None  # validation mean of the best prompt so far
    spent: Spend = Spend()  # billed, final scoring included
    open_calls: int = 0  # waiting for an answer
    waiting: int = 0  # in back-off
    resumes_in_s: float = 0.0


class Status(StrEnum):
    """The state of a task, read off file names."""

    PENDING = "pending"  # not begun, or begun by a worker that is gone
    RUNNING = "running"  # begun, and its worker is alive
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED)


@dataclass(frozen=True)
class Interval:
    """A mean score with its 95 % interval over `n` answered items; `failed` items are in none of it."""

    mean: float
    low: float
    high: float
    n: int
    failed: int


@dataclass(frozen=True)
class Standing:
    """A prompt and how it did: `scores` by split, and the mean `tokens` of an answer by split, reasoning included.

    `flaws` says by split how many answers have which flaw, of those that have one.
    """

    prompt: Prompt
    scores: Mapping[str, Interval]
    tokens: Mapping[str, float] = field(default_factory=dict)
    flaws: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A small table of an optimizer's own: a cell is a number, a text or a prompt."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Failure:
    """What ended a task."""

    kind: ErrorKind
    message: str
    traceback: str = ""
    scope: str = ""  # the provider (at its address) that answers no call any more, for whatever task; empty: none


@dataclass(frozen=True)
class TaskResult:
    """All that is known of a finished attempt.

    `spent` is the optimization, which the budget limits; `scoring` is the choice among the finalists and the test, the
    same for every optimizer. `items` are the test scores of the seed and of the final prompt, for paired statistics;
    they and `steps` are the bulk of it, and are kept in a file of their own.
    """

    task_id: str
    status: Status
    stop_reason: StopReason
    seconds: float
    simulated: bool
    spent: Accounts = Accounts()
    scoring: Accounts = Accounts()
    initial: Standing | None = None
    final: Standing | None = None
    gain: Interval | None = None  # of the final prompt over the seed prompt, paired on the test rows
    saved: Interval | None = None  # the share of the seed prompt's tokens that answers now do without, paired likewise
    items: Mapping[str, tuple[ItemScore, ...]] = field(default_factory=dict)  # initial, final
    steps: tuple[Step, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()  # (task calls, best validation mean so far)
    reported: Mapping[str, Any] = field(default_factory=dict)  # what the optimizer itself has to tell
    tables: Mapping[str, Table] = field(default_factory=dict)  # the same, small enough for every look at the run
    error: Failure | None = None
    code: str = ""  # a hash of the sources that decided it; empty in results that are older than this field
    warnings: tuple[str, ...] = ()  # sentences that whoever reads the figures must know

    @classmethod
    def of_failure(cls, spec: TaskSpec, failure: Failure, paid: Spend) -> TaskResult:
        """Of a task that came to nothing, written by whoever looked after it; `paid` by all its attempts."""
        spent = Accounts(billed=paid)
        return cls(spec.task_id, Status.FAILED, StopReason.ERROR, 0.0, spec.is_simulated, spent, error=failure)


def _bare(value: Any) -> str:
    if isinstance(value, str) and (len(value) > LONGEST_LABEL or "\n" in value):  # the text of a file
        return f"{' '.join(value.split())[:LONGEST_LABEL]}…{content_hash(value, 6)}"
    return value if isinstance(value, str) else dumps(value)
