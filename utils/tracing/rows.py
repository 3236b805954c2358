"""From what was recorded to the rows that Opik keeps: pure functions of records, nothing sent, no clock.

A task is an optimization, a trial an experiment, a prompt on a row a trace with its score, a model call a span. What a
span says was used is what was billed: an answer from the run's cache has its tokens and its price in the metadata
(`cache_hit`), so over all spans tokens and money add up to the `billed` column of the task's ledgers, final scoring
included. Times are those of the answers; a span lasts as long as the answer that counted took, waiting aside.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from utils.journal import Entry
from utils.prompt import Prompt
from utils.records import Example, Failure, Message, Role, Split, Splits, TaskSpec
from utils.report.statistics import interval
from utils.serialization import encode
from utils.tracing import ids
from utils.tracing.records import Kind, Mark, Pair, Shown, TaskTrace

Row = dict[str, Any]

LONGEST_TEXT = 100_000  # characters of one text; what is cut says so
LATEST_S = 1e11  # a date that can still be written
BASELINE = 0  # step index of the seed prompt
SECRET = ("api_key", "access_key", "secret", "password", "credential", "auth", "header", "session_token", "ad_token")
NAMELESS = "score"  # of a task that failed before it was known how it is scored


@dataclass(frozen=True)
class Frame:
    """What the rows of one task have in common."""

    run_id: str
    created_ms: int  # when the run was planned
    spec: TaskSpec
    splits: Splits
    project: str
    workspace: str = ""
    begun_as: str = ""  # the id of its optimization, where there is one already

    @property
    def optimization(self) -> str:
        place = f"{self.workspace}/{self.project}"
        return self.begun_as or ids.optimization_id(place, self.run_id, self.created_ms, self.spec.task_id)

    @property
    def dataset(self) -> str:
        """The name of its dataset."""
        return ids.dataset_name(self.spec.dataset, self.splits.data_hash)

    @property
    def tags(self) -> list[str]:
        """What a list of traces is searched by."""
        return [self.run_id, self.spec.dataset, self.spec.optimizer, *(["simulated"] if self.spec.is_simulated else [])]

    def rows(self, split: Split) -> tuple[Example, ...]:
        """The examples of a split."""
        parts = {Split.TRAIN: self.splits.train, Split.VALIDATION: self.splits.validation, Split.TEST: self.splits.test}
        return parts[split]

    def model(self, role: Role) -> str:
        """The model that is asked, as it was named."""
        named = {Role.OPTIMIZER: self.spec.optimizer_model, Role.JUDGE: self.spec.judge_model}
        return named.get(role) or self.spec.model

    def ms(self, seconds: float) -> int:
        """A recorded time in milliseconds; of records that have none, the plan's."""
        return round(seconds * 1000) if 0 < seconds < LATEST_S else self.created_ms


@dataclass(frozen=True)
class Sampling:
    """Which examples of a candidate are sent as traces: all, those that went wrong, or so many (the same of each)."""

    only_failures: bool = False
    most: int | None = None

    def __str__(self) -> str:
        return "failures" if self.only_failures else "all" if self.most is None else str(self.most)

    def choose(self, pairs: Sequence[Pair]) -> list[Pair]:
        if self.only_failures:
            return [pair for pair in pairs if pair.mark is None or pair.mark.value is None or pair.mark.value < 1.0]
        if self.most is None or len(pairs) <= self.most:
            return list(pairs)
        chosen = set(sorted((pair.item for pair in pairs), key=_rank)[: self.most])
        return [pair for pair in pairs if pair.item in chosen]


def _rank(item: str) -> bytes:
    """A place that has nothing to do with the row, and is the same for every candidate."""
    return hashlib.sha256(item.encode("utf-8", "surrogatepass")).digest()


# --------------------------------------------------------------------------- control rows


def dataset_items(frame: Frame, dataset_id: str) -> list[Row]:
    """Every row of a dataset that the task may use."""
    return [
        {
            "id": ids.dataset_item_id(dataset_id, example.id),
            "source": "sdk",
            "data": plain(
                {**example.inputs, "expected_output": example.target, "split": split.value, "example_id": example.id}
            ),
        }
        for split in Split
        for example in frame.rows(split)
    ]


def optimization(frame: Frame, trace: TaskTrace) -> Row:
    """The task."""
    spec = frame.spec
    metadata = {
        "optimizer": spec.optimizer_label,
        "run_id": frame.run_id,
        "task_id": spec.task_id,
        "model": spec.model,
        "optimizer_model": frame.model(Role.OPTIMIZER),
        "judge_model": spec.judge_model,
        "seed": spec.seed,
        "dataset": spec.dataset,
        "data_hash": frame.splits.data_hash,
        "test_mode": spec.test_mode,
        "budget": encode(spec.budget),
        "simulated": spec.is_simulated,
    }
    simulated = " (simulated)" if spec.is_simulated else ""
    return {
        "id": frame.optimization,
        "name": plain(f"{spec.dataset} {spec.optimizer_label} {spec.model} s{spec.seed}{simulated}"),
        "dataset_name": frame.dataset,
        "project_name": frame.project,
        "objective_name": objective(trace),
        "status": "running",
        "metadata": plain(metadata),
    }


def objective(trace: TaskTrace) -> str:
    """The name of the score that is optimized."""
    return trace.opening.objective if trace.opening else NAMELESS


def error_info(kind: str, message: str, trace: str = "") -> Row:
    """A failure, as Opik has it."""
    return {"exception_type": kind, "message": plain(message), "traceback": plain(trace or message)}


def failure_info(failure: Failure | None) -> Row | None:
    return error_info(failure.kind.value, failure.message, failure.traceback) if failure else None


def experiment(frame: Frame, trace: TaskTrace, shown: Shown) -> Row:
    """A trial. Its mean and interval are of all its items, whatever of them is sent.

    One on test rows is an experiment beside the optimization: within it the backend would average it with the
    candidate's search trials, or take it for the best.
    """
    trial, spec = shown.trial, frame.spec
    baseline = trace.opening is not None and trace.opening.seed == trial.prompt_id
    index = BASELINE if baseline else trace.first_step.get(trial.prompt_id, 1)
    # steps name the baseline too, where it was kept: it has no ancestry all the same
    origin = None if baseline else trace.origins.get(trial.prompt_id)
    prompt = trace.prompts.get(trial.prompt_id)
    marks = [pair.mark for pair in trace.pairs_of(shown) if pair.mark is not None]
    values = [mark.value for mark in marks if mark.value is not None]
    found = interval(values, len(marks) - len(values))
    metadata = {
        "step_index": index,
        "candidate_id": trial.prompt_id,
        "parent_candidate_ids": list(origin.parents) if origin else [],
        "configuration": {"prompt": encode(prompt) if prompt else None, **_settings(frame)},
        "operator": origin.operator if origin else "",
        "decision": origin.decision if origin else "",
        "reason": origin.reason if origin else "",
        "kind": trial.kind.value,
        "split": trial.split.value,
        "objective": objective(trace),
        "mean": _finite(found.mean),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "n": found.n,
        "failed": found.failed,
        "run_id": frame.run_id,
        "task_id": spec.task_id,
        "optimization_id": frame.optimization,
        "optimizer": spec.optimizer_label,
        "simulated": spec.is_simulated,
    }
    within = {"type": "trial" if is_whole(frame, trace, shown) else "mini-batch", "optimization_id": frame.optimization}
    return {
        "id": trial_id(frame, trace, shown),
        "dataset_name": frame.dataset,
        "project_name": frame.project,
        "name": plain(f"{'baseline' if baseline else f'step {index}'} {trial.split.value} {trial.prompt_id[:6]}"),
        "evaluation_method": "dataset",
        **({"type": "regular"} if trial.split is Split.TEST else within),
        "tags": [*frame.tags, trial.split.value],
        "metadata": plain(metadata),
    }


def _finite(value: float) -> float | None:
    """None where nothing was answered."""
    return value if math.isfinite(value) else None


def _settings(frame: Frame) -> Row:
    # plans refuse keys among parameters; this is the second lock
    given = frame.spec.model_params.items()
    params = {name: value for name, value in given if not any(word in name.lower() for word in SECRET)}
    return {"model": frame.spec.model, "model_params": encode(params), "seed": frame.spec.seed}


def trial_id(frame: Frame, trace: TaskTrace, shown: Shown) -> str:
    """The id of a trial's experiment, dated by the first answer in it."""
    first = min((pair.at for pair in trace.pairs_of(shown)), default=0.0)
    return ids.trial_id(frame.ms(first), frame.optimization, shown.key)


def is_whole(frame: Frame, trace: TaskTrace, shown: Shown) -> bool:
    """True where a trial covers all of validation, the prompt's own demos aside."""
    trial = shown.trial
    if trial.kind is not Kind.EVALUATION or trial.split is not Split.VALIDATION:
        return False
    prompt = trace.prompts.get(trial.prompt_id)
    demos = {demo.example_id for demo in prompt.demos} if prompt else set()
    return {row.id for row in frame.rows(trial.split)} - demos <= set(shown.items)


def link(frame: Frame, dataset_id: str, experiment_id: str, item: str, trace_id: str) -> Row:
    """The place of a trace in an experiment."""
    return {
        "id": ids.link_id(experiment_id, item),
        "experiment_id": experiment_id,
        "dataset_item_id": ids.dataset_item_id(dataset_id, item),
        "trace_id": trace_id,
        "project_name": frame.project,
    }


# --------------------------------------------------------------------------- traces, spans, scores


def pair_trace(frame: Frame, pair: Pair, example: Example | None, split: str, trace_id: str) -> Row:
    """The trace of one prompt on one row."""
    mark = pair.mark
    asked = dict(example.inputs) if example else {"example_id": pair.item}
    metadata: Row = {
        "prompt_id": pair.prompt_id,
        "example_id": pair.item,
        "split": split,
        "task_id": frame.spec.task_id,
    }
    if mark is not None and mark.also:
        metadata["also"] = dict(mark.also)
    if mark is None:
        metadata["unscored"] = "the task ended within this batch"
    return plain_row(
        {
            **_common(frame, trace_id, "example", pair.began, pair.ended),
            "input": asked,
            "output": None if pair.answer is None else {"output": pair.answer},
            "metadata": metadata,
            "tags": [*frame.tags, *([split] if split else [])],
            "error_info": error_info(mark.error, mark.message) if mark and mark.value is None else None,
            "source": "optimization",
        }
    )


def score(frame: Frame, name: str, mark: Mark, trace_id: str) -> Row:
    """The score of a trace."""
    return {
        "id": trace_id,
        "project_name": frame.project,
        "name": name,
        "value": mark.value,
        "reason": plain(mark.reason),
        "source": "sdk",
    }


def ask_trace(frame: Frame, entry: Entry, trace_id: str) -> Row:
    """The trace around one call of the optimizer model."""
    return plain_row(
        {
            **_common(frame, trace_id, "optimizer model", *_times(entry)),
            "input": {"messages": _messages(entry.messages)},
            "output": {"output": entry.completion.text} if entry.completion else None,
            "metadata": {"optimization_id": frame.optimization, "task_id": frame.spec.task_id},
            "tags": [*frame.tags, "optimizer model", frame.optimization],
            "error_info": _entry_error(entry),
            "source": "optimization",
        }
    )


def span(frame: Frame, entry: Entry, messages: Sequence[Message], trace_id: str, span_id: str) -> Row:
    """One model call."""
    model = frame.model(entry.role)
    prefix, slash, bare = model.partition("/")
    answer = entry.completion
    metadata: Row = {
        "role": entry.role.value,
        "model_asked": model,
        "attempts": answer.attempts if answer else entry.failed.attempts if entry.failed else 0,
        "waited_s": round(max(0.0, entry.took_s - (answer.latency_s if answer else 0.0)), 3),
        "occurrence": entry.occurrence,
    }
    usage: Row | None = None
    cost: float | None = None
    if answer is not None:
        counted = {
            "prompt_tokens": answer.usage.tokens_in,
            "completion_tokens": answer.usage.tokens_out,
            "total_tokens": answer.usage.tokens_in + answer.usage.tokens_out,
        }
        metadata |= {"finish_reason": answer.finish_reason, "latency_s": answer.latency_s, "cache_hit": answer.cached}
        if answer.usage.reasoning is not None:
            metadata["reasoning_tokens"] = answer.usage.reasoning
        if answer.usage.estimated:
            metadata["usage_estimated"] = True
        if answer.cached:
            metadata |= {"cached_usage": counted, "saved_usd": answer.cost_usd}
        else:
            usage, cost = counted, answer.cost_usd
    return plain_row(
        {
            **_common(frame, span_id, f"{entry.role.value} call", *_times(entry)),
            "trace_id": trace_id,
            "type": "llm",
            "model": (answer.model if answer else "") or bare or model,
            "provider": prefix if slash else None,
            "input": {"messages": _messages(messages)},
            "output": {"output": answer.text} if answer else None,
            "usage": usage,
            "total_estimated_cost": cost,
            "metadata": metadata,
            "tags": ["cache hit"] if answer and answer.cached else [],
            "error_info": _entry_error(entry),
            "source": "optimization",
        }
    )


def rendered(entry: Entry, prompts: Mapping[str, Prompt], examples: Mapping[str, Example]) -> Sequence[Message]:
    """The messages of a call; those of a task call are made again from its prompt and its row, where both are known."""
    if entry.messages:
        return entry.messages
    prompt, example = prompts.get(entry.prompt), examples.get(entry.item)
    return prompt.render(example.inputs) if prompt and example else ()


def _common(frame: Frame, row_id: str, name: str, began: float, ended: float) -> Row:
    start, end = sorted((frame.ms(began), frame.ms(ended)))
    return {
        "id": row_id,
        "project_name": frame.project,
        "name": name,
        "start_time": stamp(start),
        "end_time": stamp(end),
    }


def _times(entry: Entry) -> tuple[float, float]:
    took = entry.completion.latency_s if entry.completion else entry.took_s
    return entry.at - took, entry.at


def _entry_error(entry: Entry) -> Row | None:
    return error_info(entry.failed.kind.value, entry.failed.message) if entry.failed else None


def _messages(messages: Sequence[Message]) -> list[Row]:
    return [{"role": message.role, "content": message.content} for message in messages]


# --------------------------------------------------------------------------- what may be sent


def stamp(ms: int) -> str:
    """A time as Opik wants it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain_row(row: Row) -> Row:
    """A row without what is None, and with nothing in it that JSON cannot hold."""
    return {name: plain(value) for name, value in row.items() if value is not None}


def plain(value: Any) -> Any:
    """The same as JSON that any server reads: long texts cut, half characters replaced, NaN and infinities as text."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {_text(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _text(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}... [{len(text) - LONGEST_TEXT} characters cut]"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
