"""Generators of the harness's records: prompts, specs, completions, results.

Texts hold what rows and models really hold: braces, JSON literals, tags, U+2028, combining marks, emoji, and lone
surrogates, which `json.loads` makes out of a cut escape. Floats hold NaN, the infinities and -0.0 where a field may.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from hypothesis import strategies as st

from utils.errors import ErrorKind
from utils.journal import Entry, Failed
from utils.prompt import Demo, Prompt
from utils.records import (
    Accounts,
    Budget,
    Completion,
    Evaluation,
    Example,
    Failure,
    Interval,
    ItemScore,
    Message,
    Progress,
    Request,
    Role,
    RunPlan,
    Score,
    Spend,
    Split,
    Splits,
    Standing,
    Status,
    Step,
    StopReason,
    TaskResult,
    TaskSpec,
    TokenLogprob,
    Usage,
)

TRICKY = [
    "",
    "{question}",
    '{"a": {"b": [1]}}',
    "{demos}",
    "{target}",
    "{{x}}",
    "</prompt>",
    "[bold]x[/bold]",
    "a\u2028b\nc",
    "e\u0301 é",
    "😀",
    "\ud83d",
    "\x1b[2J",
    "\x00",
]
COLUMNS = ("question", "context", "choices")

texts = st.one_of(
    st.sampled_from(TRICKY),
    st.text(st.characters(exclude_categories=()), max_size=12),
    st.lists(st.sampled_from([*TRICKY, "word", " "]), max_size=5).map("".join),
)
names = st.text("abcdefgh_", min_size=1, max_size=8)
counts = st.integers(min_value=0, max_value=10**9)
numbers = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
money = st.floats(min_value=0, max_value=100)
prices = st.none() | money
shares = st.floats(min_value=0, max_value=1)
scalars = st.none() | st.booleans() | st.integers() | numbers | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
params = st.dictionaries(names, json_values, max_size=3)

rows = st.fixed_dictionaries(dict.fromkeys(COLUMNS, texts))
examples = st.builds(Example, names, rows, texts, st.lists(texts, max_size=3).map(tuple))
demos = st.builds(Demo, names, rows, texts)
prompts = st.builds(Prompt, texts, texts, texts, st.lists(demos, max_size=2).map(tuple), texts)

messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts)
requests = st.builds(
    Request,
    st.lists(messages, min_size=1, max_size=3).map(tuple),
    params,
    st.none() | params,
    counts,
    names,
    names,
    counts,
)
usages = st.builds(Usage, counts, counts, st.none() | counts, st.booleans())
logprobs = st.builds(TokenLogprob, texts, numbers, st.dictionaries(texts, numbers, max_size=2))
completions = st.builds(
    Completion,
    texts,
    usages,
    prices,
    numbers,
    names,
    st.none() | st.lists(logprobs, max_size=2).map(tuple),
    names,
    counts,
    st.booleans(),
)
failures_of_calls = st.builds(Failed, st.sampled_from(ErrorKind), texts, counts)
entries = st.builds(
    lambda outcome, **rest: Entry(completion=outcome[0], failed=outcome[1], **rest),
    st.tuples(completions, st.none()) | st.tuples(st.none(), failures_of_calls),
    key=names,
    occurrence=counts,
    role=st.sampled_from(Role),
    elapsed_s=numbers,
    prompt=names,
    item=names,
    messages=st.lists(messages, max_size=2).map(tuple),
    at=numbers,
    took_s=numbers,
)

budgets = st.builds(Budget, counts, st.none() | counts, st.none() | counts, prices, prices)
spends = st.builds(Spend, counts, counts, counts, counts, counts, prices)
accounts = st.builds(Accounts, spends, spends)
scores = st.builds(Score, shares, texts)
item_scores = st.builds(ItemScore, names, texts, scores, tokens_out=counts) | st.builds(
    ItemScore, names, error=st.sampled_from(ErrorKind), error_message=texts
)
item_rows = st.lists(item_scores, max_size=4).map(tuple)
evaluations = st.builds(Evaluation, prompts, st.sampled_from(Split), item_rows)
steps = st.builds(
    Step,
    counts,
    names,
    names,
    texts,
    st.lists(names, max_size=2).map(tuple),
    st.none() | prompts,
    texts,
    st.dictionaries(names, numbers, max_size=2),
    spends,
)
task_specs = st.builds(
    TaskSpec,
    dataset=names,
    optimizer=names,
    model=st.sampled_from(["sim/standard", "openai/gpt-4o-mini", "bare"]),
    seed=st.integers(),
    optimizer_params=params,
    model_params=params,
    optimizer_model=names,
    judge_model=names,
    data=texts,
    dataset_csv=texts,
    test_mode=st.booleans(),
    budget=budgets,
    prompt=st.none() | prompts,
    metric=names,
)
plans = st.builds(
    RunPlan,
    names,
    names,
    st.lists(task_specs, max_size=2).map(tuple),
    params,
    st.dictionaries(names, texts, max_size=2),
    st.dictionaries(names, names, max_size=2),
)
progresses = st.builds(Progress, names, names, counts, st.none() | numbers, spends, counts, counts, numbers)
intervals = st.builds(Interval, numbers, numbers, numbers, counts, counts)
standings = st.builds(Standing, prompts, st.dictionaries(names, intervals, max_size=2))
failures = st.builds(Failure, st.sampled_from(ErrorKind), texts, texts)
task_results = st.builds(
    TaskResult,
    task_id=names,
    status=st.sampled_from([Status.COMPLETED, Status.FAILED]),
    stop_reason=st.sampled_from(StopReason),
    seconds=numbers,
    simulated=st.booleans(),
    spent=accounts,
    scoring=accounts,
    initial=st.none() | standings,
    final=st.none() | standings,
    gain=st.none() | intervals,
    items=st.dictionaries(names, item_rows, max_size=2),
    steps=st.lists(steps, max_size=2).map(tuple),
    curve=st.lists(st.tuples(counts, numbers), max_size=2).map(tuple),
    error=st.none() | failures,
)

splits = st.builds(Splits, *[st.lists(examples, max_size=2).map(tuple)] * 3, names, notes=st.just(()))

RECORDS = {
    Accounts: accounts,
    Budget: budgets,
    Completion: completions,
    Demo: demos,
    Entry: entries,
    Evaluation: evaluations,
    Example: examples,
    Failed: failures_of_calls,
    Failure: failures,
    Interval: intervals,
    ItemScore: item_scores,
    Message: messages,
    Progress: progresses,
    Prompt: prompts,
    Request: requests,
    RunPlan: plans,
    Score: scores,
    Spend: spends,
    Splits: splits,
    Standing: standings,
    Step: steps,
    TaskResult: task_results,
    TaskSpec: task_specs,
    TokenLogprob: logprobs,
    Usage: usages,
}


def same(first: Any, second: Any) -> bool:
    """Equality to the bit and to the type: NaN equals NaN, 0.0 is not -0.0, 1 is not 1.0, a tuple is not a list."""
    if type(first) is not type(second):
        return False
    if isinstance(first, float):
        return (math.isnan(first) and math.isnan(second)) or struct.pack("d", first) == struct.pack("d", second)
    if is_dataclass(first):
        return all(same(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
