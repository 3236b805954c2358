"""What a worker writes down for traces beside its journal, and how the two files are read together.

The journal holds every answered model call. What it does not say is written here, a line each: how the task is scored,
every trial (a prompt and the rows it was scored on, with their scores) and every step. A prompt and a score are written
once a file; a replay after a resume writes the same again, so what a task did is the union over its attempts' files,
where things are the same that have the same content.

Lines go through to the operating system at once; a torn last line, left by a kill, is skipped on reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from utils.errors import UsageError
from utils.journal import Entry, read_line
from utils.prompt import Prompt
from utils.records import Evaluation, ItemScore, Role, Split, Step
from utils.serialization import content_hash, decode, dumps

Place = tuple[str, int, bool]


class Kind(StrEnum):
    """What kind of trial it is."""

    EVALUATION = "evaluation"  # a prompt on a set of rows; another set is another trial
    INTERACTIONS = "interactions"  # single answers of a prompt, row by row: all of a prompt's are one trial that grows


@dataclass(frozen=True)
class Opening:
    """The first line: what the score is called, and the prompt that everything is compared with."""

    objective: str
    seed: str  # prompt id


@dataclass(frozen=True)
class Mark:
    """The score of one answer, or the error that stands in its place. The answer itself is in the journal."""

    item: str
    value: float | None = None
    reason: str = ""
    error: str = ""
    message: str = ""
    also: Mapping[str, float] = field(default_factory=dict)  # the other metrics


@dataclass(frozen=True)
class Trial:
    """One prompt scored on one set of rows, in their order. `prompt` and `marks` hold what is new in this file."""

    kind: Kind
    split: Split
    prompt_id: str
    items: tuple[str, ...]
    prompt: Prompt | None = None
    marks: tuple[Mark, ...] = ()

    @property
    def key(self) -> str:
        """A hash of what makes it this trial and no other."""
        rows = self.items if self.kind is Kind.EVALUATION else ()
        return content_hash([self.kind, self.split, self.prompt_id, rows], 20)


# --------------------------------------------------------------------------- writing


class Recorder:
    """Told of what a task does. This one writes nothing down."""

    def open(self, objective: str, seed: Prompt) -> None:
        """The task begins."""

    def trial(self, evaluation: Evaluation) -> None:
        """A prompt was scored on some rows."""

    def interactions(self, prompts: Sequence[Prompt], items: Sequence[ItemScore]) -> None:
        """Training rows were answered one by one, each by the prompt at its place."""

    def step(self, step: Step) -> None:
        """The optimizer decided."""


class Recording(Recorder):
    """Writes it down, a line each, through `append`."""

    def __init__(self, append: Callable[[str], None]) -> None:
        self._append = append
        self._prompts: set[str] = set()
        self._marked: set[tuple[str, str]] = set()
        self._trials: set[tuple[object, ...]] = set()

    def open(self, objective: str, seed: Prompt) -> None:
        self._append(dumps({"opening": Opening(objective, seed.id)}) + "\n")

    def trial(self, evaluation: Evaluation) -> None:
        self._write(Kind.EVALUATION, evaluation.split, evaluation.prompt, evaluation.items)

    def interactions(self, prompts: Sequence[Prompt], items: Sequence[ItemScore]) -> None:
        grouped: dict[str, tuple[Prompt, list[ItemScore]]] = {}
        for prompt, item in zip(prompts, items, strict=True):
            grouped.setdefault(prompt.id, (prompt, []))[1].append(item)
        for prompt, answered in grouped.values():
            self._write(Kind.INTERACTIONS, Split.TRAIN, prompt, answered)

    def step(self, step: Step) -> None:
        self._append(dumps({"step": step}) + "\n")

    def _write(self, kind: Kind, split: Split, prompt: Prompt, scores: Sequence[ItemScore]) -> None:
        items = tuple(score.example_id for score in scores)
        place = (kind, split, prompt.id, items)
        if not items or place in self._trials:
            return
        self._trials.add(place)
        new = [score for score in scores if (prompt.id, score.example_id) not in self._marked]
        shown = None if prompt.id in self._prompts else prompt
        self._append(dumps({"trial": Trial(kind, split, prompt.id, items, shown, tuple(map(_mark, new)))}) + "\n")
        self._prompts.add(prompt.id)
        self._marked.update((prompt.id, score.example_id) for score in new)


def _mark(item: ItemScore) -> Mark:
    if item.score is None:
        return Mark(item.example_id, error=item.error.value if item.error else "internal", message=item.error_message)
    return Mark(item.example_id, item.score.value, item.score.reason, also=item.also)


def read_record(line: str) -> Opening | Trial | Step | None:
    """The record of one line; None for an empty or torn one."""
    try:
        value = json.loads(line)
        if "trial" in value:
            return decode(Trial, value["trial"], newer=True)
        if "step" in value:
            return decode(Step, value["step"], newer=True)
        return decode(Opening, value["opening"], newer=True)
    except (ValueError, TypeError, KeyError, UsageError):
        return None


# --------------------------------------------------------------------------- reading


@dataclass
class Pair:
    """A prompt and a row it was asked on: one trace. Its calls are let go of once they are sent."""

    prompt_id: str
    item: str
    at: float  # when its first call was answered, unix seconds
    began: float
    ended: float
    calls: list[Entry] = field(default_factory=list)
    count: int = 0  # of its calls, sent ones included
    answer: str | None = None
    mark: Mark | None = None

    @cached_property
    def name(self) -> str:
        """A few digits that stand for it among all pairs of its task."""
        return content_hash([self.prompt_id, self.item], 12)

    @property
    def state(self) -> str:
        """What of it there is to be seen; it changes where a failed call is asked again."""
        outcome = "open" if self.mark is None else "error" if self.mark.value is None else "scored"
        return f"{outcome}{self.count}"

    def take(self, entry: Entry) -> None:
        self.calls.append(entry)
        self.count += 1
        self.ended = max(self.ended, entry.at)
        if entry.role is Role.TASK and entry.completion is not None:
            self.answer = entry.completion.text


@dataclass
class Shown:
    """A trial as it is known so far."""

    trial: Trial
    items: dict[str, None]  # in order, each once
    steps_before: int
    is_ripe: bool = False  # the optimizer has decided on it and gone on, so its ancestry is known

    @property
    def key(self) -> str:
        return self.trial.key


@dataclass(frozen=True)
class Origin:
    """Where a candidate came from, by the first step that names it."""

    parents: tuple[str, ...]
    operator: str
    decision: str
    reason: str


def place_of(entry: Entry) -> Place:
    """What makes a call this one: one that failed and was asked again by a retry is two, a repeated line is one."""
    return (entry.key, entry.occurrence, entry.failed is not None)


class TaskTrace:
    """What the files of one task say so far. Fed with lines, attempt after attempt, each file in its order.

    Of a trial in the recording, all calls are in the journal: whoever follows a living task reads the recording first.
    """

    def __init__(self) -> None:
        self.opening: Opening | None = None
        self.prompts: dict[str, Prompt] = {}
        self.first_step: dict[str, int] = {}  # prompt id -> how many steps there were when it was first scored, plus 1
        self.origins: dict[str, Origin] = {}
        self.pairs: dict[tuple[str, str], Pair] = {}
        self.asks: dict[Place, Entry] = {}  # calls of the optimizer model, until they are sent
        self.trials: dict[str, Shown] = {}
        self._marks: dict[tuple[str, str], Mark] = {}  # read before their calls were
        self._seen: set[Place] = set()
        self._steps = 0  # in the file that is being read

    def begin_attempt(self) -> None:
        """The next lines are those of another attempt, which begins from the start again."""
        self._steps = 0

    def take_call(self, line: str) -> None:
        """One line of a journal."""
        try:
            entry = read_line(line)
        except UsageError:  # told to the task that needs it; a trace goes without
            return
        if not isinstance(entry, Entry):
            return
        place = place_of(entry)
        if place in self._seen:
            return
        self._seen.add(place)
        if entry.role is Role.OPTIMIZER:
            self.asks[place] = entry
            return
        began = entry.at - (entry.completion.latency_s if entry.completion else entry.took_s)
        at = (entry.prompt, entry.item)
        if at not in self.pairs:
            self.pairs[at] = Pair(entry.prompt, entry.item, entry.at, began, entry.at, mark=self._marks.pop(at, None))
        self.pairs[at].take(entry)

    def take_record(self, line: str) -> None:
        """One line of a recording."""
        record = read_record(line)
        if isinstance(record, Opening):
            self.opening = self.opening or record
        elif isinstance(record, Step):
            self._take_step(record)
        elif isinstance(record, Trial):
            self._take_trial(record)

    def ripen(self) -> None:
        """Nothing more will come: whatever is known is all there is."""
        for shown in self.trials.values():
            shown.is_ripe = True

    def unscored(self) -> list[Pair]:
        """Pairs that were asked in a batch which did not come to its end, and so are in no trial."""
        return [pair for pair in self.pairs.values() if pair.mark is None]

    def pairs_of(self, shown: Shown) -> Iterable[Pair]:
        """The pairs of a trial, in order."""
        found = (self.pairs.get((shown.trial.prompt_id, item)) for item in shown.items)
        return [pair for pair in found if pair is not None]

    def _take_step(self, step: Step) -> None:
        self._steps += 1
        if step.candidate is None:
            return
        known = self.origins.get(step.candidate.id)
        if known is None or (not known.parents and step.parents):
            self.origins[step.candidate.id] = Origin(step.parents, step.operator, step.decision, step.reason)

    def _take_trial(self, trial: Trial) -> None:
        if trial.prompt is not None:
            self.prompts[trial.prompt_id] = trial.prompt
        for mark in trial.marks:
            self._take_mark((trial.prompt_id, mark.item), mark)
        for earlier in self.trials.values():
            if earlier.trial.kind is Kind.EVALUATION and earlier.steps_before < self._steps:
                earlier.is_ripe = True
        self.first_step.setdefault(trial.prompt_id, self._steps + 1)
        known = self.trials.get(trial.key)
        if known is None:
            self.trials[trial.key] = Shown(trial, dict.fromkeys(trial.items), self._steps)
        else:
            known.items.update(dict.fromkeys(trial.items))

    def _take_mark(self, at: tuple[str, str], mark: Mark) -> None:
        pair = self.pairs.get(at)
        known = pair.mark if pair else self._marks.get(at)
        if known is not None and known.value is not None:
            return  # the same again from a replay
        if pair is not None:
            pair.mark = mark
        else:
            self._marks[at] = mark
