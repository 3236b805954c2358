"""One task on its way to Opik: what is new in its files, what the server has taken of it, what is left.

What goes together is a parcel: a prompt on a row with its calls and its score, a call of the optimizer model, a trial.
A parcel is sent whole; what was taken is kept in `traced/<task_id>.json`, so that whoever goes on (a later attempt,
a push next week) sends the rest. All ids are fixed, so what is sent again after a lost reply stands once.

Only ids that are too old need care: a backend may refuse traces and spans that are dated long ago. Where it does, they
are dated anew, and the new date is written down before it is used; of a parcel that was sent before and got no reply,
the server is asked first whether it has it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from utils.archive import Attempt, RunArchive
from utils.errors import UsageError
from utils.journal import Entry
from utils.records import Example, Failure, Split, Splits, TaskSpec
from utils.serialization import content_hash, dumps, loads
from utils.tracing import ids, rows
from utils.tracing.client import Client, Undelivered
from utils.tracing.records import Pair, Shown, TaskTrace, place_of
from utils.tracing.rows import Frame, Row, Sampling
from utils.tracing.target import Target, optimization_link

MOST_ROWS = 500  # of a request
MOST_CHARACTERS = 3_000_000  # of a request, about
MOST_REFUSED = 10  # parcels one by one; then it is not the parcels
OLD_S = 11 * 3600.0  # backends that look at the date of an id refuse from 12 hours on, most from 24


@dataclass(frozen=True)
class Traced:
    """What the server has taken of a task."""

    target: str  # where all this is
    optimization: str = ""  # its id, once it is there
    dataset: str = ""  # id of its rows
    link: str = ""
    status: str = ""  # as it was told last
    whole: str = ""  # what was asked for when nothing was left
    sent: int = 0  # traces
    accepted: tuple[str, ...] = ()  # parcels, each with its state; trials begin with a t
    begun: tuple[str, ...] = ()  # parcels that were sent, and of which no reply came
    dates: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of parcels dated anew: trace, spans


@dataclass(frozen=True)
class End:
    """How a task stands when nothing more will come."""

    status: str  # completed, cancelled, error
    error: Failure | None = None


@dataclass
class Parcel:
    """A trace with all that belongs to it: a prompt on a row, or a call of the optimizer model."""

    of: Pair | Entry
    name: str
    state: str  # its name, and how it stands at present
    ms: int  # the date of its records
    weight: int  # characters, about
    was_begun: bool = False  # sent before, and no reply came
    has_trace: bool = False  # already on the server
    has_spans: bool = False

    @property
    def calls(self) -> list[Entry]:
        """Those that are to be sent."""
        return self.of.calls if isinstance(self.of, Pair) else [self.of]


class Delivery:
    """Follows one task. `advance` sends what is ripe; `end` says that its files are complete."""

    def __init__(
        self,
        archive: RunArchive,
        spec: TaskSpec,
        target: Target,
        datasets: Datasets,
        client: Client,
        *,
        items: Sampling | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spec = spec
        self.refused = ""  # why the server did not want some parcel, if there was one
        self._archive, self._target, self._datasets, self._client = archive, target, datasets, client
        self._items = items or Sampling()
        self._clock = clock
        self._attempts: list[Attempt] = []
        self._offsets: dict[tuple[str, Attempt], int] = {}
        self._examples: dict[str, Example] = {}
        self._split_of: dict[str, str] = {}
        self._linked: dict[str, tuple[str, ...]] = {}  # trial -> the states of its pairs when it was sent
        self._trace = TaskTrace()
        self._frame: Frame | None = None
        self._end: End | None = None
        self._refused: set[str] = set()
        known = read_traced(archive, spec.task_id)
        if known is None or known.target != target.name:  # of another server nothing is known
            known = Traced(target.name)
        self._known = known
        self._is_news = True  # something may have changed since all that is ripe was sent
        self._accepted, self._begun = dict.fromkeys(known.accepted), dict.fromkeys(known.begun)
        self._dates = dict(known.dates)

    # ------------------------------------------------------------------ told by whoever knows

    def follow(self, attempts: Iterable[Attempt]) -> None:
        """These attempts write, or wrote, the task's files."""
        self._attempts += [attempt for attempt in attempts if attempt not in self._attempts]
        self._end = None
        self._is_news = True

    def end(self, end: End) -> None:
        """No attempt writes any more."""
        self._end = end
        self._is_news = True

    @property
    def is_ended(self) -> bool:
        return self._end is not None

    @property
    def is_whole(self) -> bool:
        """True where the server has all that was asked for."""
        return self._end is not None and self._known.whole == self._wanted(self._end)

    @property
    def link(self) -> str:
        """Leads to the task in Opik; empty until it is there."""
        return self._known.link

    @property
    def sent(self) -> int:
        """Traces that the server has taken, now and before."""
        return self._known.sent

    def _wanted(self, end: End) -> str:
        return f"{end.status} {self._items} {len(self._attempts)}"

    # ------------------------------------------------------------------ sending

    def advance(self) -> None:
        """Read what is new and send what is ripe; once it has ended, all of it. Raises Undelivered, and can go on."""
        if self.is_whole:
            return
        self._refused.clear()
        self.refused = ""
        self._read_on()
        if not self._is_news:
            return
        if self._trace.opening is None and self._end is None:
            return  # not yet known how it is scored
        frame = self._frame = self._frame or self._framed()
        self._announce(frame)
        if self._end:
            self._trace.ripen()
        trials = [shown for shown in self._trace.trials.values() if shown.is_ripe]
        chosen = {shown.key: self._items.choose(list(self._trace.pairs_of(shown))) for shown in trials}
        self._send_all(frame, self._parcels(frame, chosen.values()))
        self._send_trials(frame, trials, chosen)
        if self._end:
            self._conclude(frame, self._end)
        self._is_news = False

    def _read_on(self) -> None:
        """The recording before the journal: then the calls of all that it tells of are there."""
        for attempt in self._attempts:
            if ("trace", attempt) not in self._offsets:
                self._trace.begin_attempt()
            self._read_file("trace", attempt, self._trace.take_record)
        for attempt in self._attempts:
            self._read_file("journal", attempt, self._trace.take_call)

    def _read_file(self, kind: Literal["trace", "journal"], attempt: Attempt, take: Callable[[str], None]) -> None:
        offset = self._offsets.get((kind, attempt), 0)
        content = self._archive.read_on(kind, attempt, offset)
        # what follows the last line end is being written, or was torn; a whole line may lack no more than its end
        is_over = self._end is not None or attempt != self._attempts[-1]
        whole = content if is_over else content[: content.rfind(b"\n") + 1]
        for line in whole.split(b"\n"):
            if line:
                # a kill may tear a character; a lone surrogate is one that was written so
                with contextlib.suppress(UnicodeDecodeError):
                    take(line.decode("utf-8", "surrogatepass"))
        end = content.rfind(b"\n") + 1
        if end:
            self._is_news = True
            self._offsets[kind, attempt] = offset + end

    def _framed(self) -> Frame:
        frame = replace(self._datasets.frame(self.spec), begun_as=self._known.optimization)
        for split in Split:
            for row in frame.rows(split):
                self._examples[row.id] = row
                self._split_of[row.id] = split.value
        return frame

    def _announce(self, frame: Frame) -> None:
        """The optimization, once: to create it again would set it back."""
        dataset = self._datasets.find(frame)
        if not self._known.optimization:
            self._client.put_optimization(rows.optimization(frame, self._trace))
            link = optimization_link(self._target, frame.optimization, dataset)
            self._save(optimization=frame.optimization, dataset=dataset, link=link, status="running")
        if self._end is None and self._known.status != "running":  # a retry, or a resume
            self._client.set_status(frame.optimization, "running", None)
            self._save(status="running")

    def _conclude(self, frame: Frame, end: End) -> None:
        if self._known.status != end.status:
            self._client.set_status(frame.optimization, end.status, rows.failure_info(end.error))
            self._save(status=end.status)
        if not self._refused:
            self._save(whole=self._wanted(end))

    # ------------------------------------------------------------------ traces

    def _parcels(self, frame: Frame, chosen: Iterable[Sequence[Pair]]) -> list[Parcel]:
        """What has not been taken yet, each once."""
        pairs = {pair.name: pair for some in chosen for pair in some}
        if self._end:
            pairs |= {pair.name: pair for pair in self._items.choose(self._trace.unscored())}
        new = [pair for pair in pairs.values() if pair.name + pair.state not in self._accepted]
        asks = [entry for entry in self._trace.asks.values() if _name(entry) not in self._accepted]
        return [*(self._of_pair(frame, pair) for pair in new), *(self._of_ask(frame, entry) for entry in asks)]

    def _of_pair(self, frame: Frame, pair: Pair) -> Parcel:
        prompt, example = self._trace.prompts.get(pair.prompt_id), self._examples.get(pair.item)
        texts = [pair.answer or "", *(example.inputs.values() if example else ())]
        weight = sum(map(len, texts)) + (prompt.length if prompt else 0)
        return Parcel(pair, pair.name, pair.name + pair.state, frame.ms(pair.at), 2 * weight)

    def _of_ask(self, frame: Frame, entry: Entry) -> Parcel:
        texts = [message.content for message in entry.messages]
        weight = sum(map(len, texts)) + (len(entry.completion.text) if entry.completion else 0)
        return Parcel(entry, _name(entry), _name(entry), frame.ms(entry.at), 2 * weight)

    def _send_all(self, frame: Frame, parcels: Sequence[Parcel]) -> None:
        for batch in _batches(parcels):
            for parcel in batch:
                parcel.was_begun = parcel.name in self._begun
                self._begun[parcel.name] = None
            self._save()
            self._send(frame, batch)

    def _send(self, frame: Frame, batch: Sequence[Parcel]) -> None:
        """A batch; one that is refused is sent again in halves, until the parcel is found that is not wanted."""
        try:
            self._put(frame, batch)
        except Undelivered as error:
            if not error.is_refusal or len(self._refused) >= MOST_REFUSED:
                raise
            if self._date_anew(frame, batch):
                self._send(frame, batch)
            elif len(batch) > 1:
                self._send(frame, batch[: len(batch) // 2])
                self._send(frame, batch[len(batch) // 2 :])
            else:
                self._refused.add(batch[0].name)
                self.refused = str(error)
            return
        for parcel in batch:
            self._accepted[parcel.state] = None
            self._begun.pop(parcel.name, None)
            if isinstance(parcel.of, Pair):
                parcel.of.calls.clear()
            else:
                self._trace.asks.pop(place_of(parcel.of), None)
        self._save()

    def _put(self, frame: Frame, batch: Sequence[Parcel]) -> None:
        traces = [self._trace_row(frame, parcel) for parcel in batch if not parcel.has_trace]
        if traces:
            self._client.put("traces", traces)
        for parcel in batch:
            parcel.has_trace = True
        spans = [row for parcel in batch if not parcel.has_spans for row in self._span_rows(frame, parcel)]
        if spans:
            self._client.put("spans", spans)
        for parcel in batch:
            parcel.has_spans = True
        name = rows.objective(self._trace)
        scores = [
            rows.score(frame, name, parcel.of.mark, self._trace_id(frame, parcel))
            for parcel in batch
            if isinstance(parcel.of, Pair) and parcel.of.mark is not None and parcel.of.mark.value is not None
        ]
        if scores:
            self._client.put("scores", scores)

    def _trace_row(self, frame: Frame, parcel: Parcel) -> Row:
        trace_id = self._trace_id(frame, parcel)
        if isinstance(parcel.of, Entry):
            return rows.ask_trace(frame, parcel.of, trace_id)
        item = parcel.of.item
        return rows.pair_trace(frame, parcel.of, self._examples.get(item), self._split_of.get(item, ""), trace_id)

    def _span_rows(self, frame: Frame, parcel: Parcel) -> list[Row]:
        trace_id = self._trace_id(frame, parcel)
        return [
            rows.span(
                frame,
                entry,
                rows.rendered(entry, self._trace.prompts, self._examples),
                trace_id,
                self._span_id(frame, parcel, entry),
            )
            for entry in parcel.calls
        ]

    def _trace_id(self, frame: Frame, parcel: Parcel) -> str:
        if isinstance(parcel.of, Pair):
            return self._pair_id(frame, parcel.of)
        ms = self._dates[parcel.name][0] if parcel.name in self._dates else parcel.ms
        return ids.call_id(ms, "ask", frame.optimization, parcel.of)

    def _pair_id(self, frame: Frame, pair: Pair) -> str:
        ms = self._dates[pair.name][0] if pair.name in self._dates else frame.ms(pair.at)
        return ids.pair_id(ms, frame.optimization, pair.prompt_id, pair.item)

    def _span_id(self, frame: Frame, parcel: Parcel, entry: Entry) -> str:
        ms = self._dates[parcel.name][1] if parcel.name in self._dates else frame.ms(entry.at)
        return ids.call_id(ms, "call", frame.optimization, entry)

    def _date_anew(self, frame: Frame, batch: Sequence[Parcel]) -> bool:
        """Give today's date to what may have been refused for its age; True if there was something."""
        now = round(self._clock() * 1000)
        found = False
        for parcel in batch:
            trace_ms, span_ms = self._dates.get(parcel.name, (parcel.ms, parcel.ms))
            if abs(now - min(trace_ms, span_ms)) < OLD_S * 1000 or (parcel.has_trace and parcel.has_spans):
                continue
            if parcel.was_begun and not parcel.has_trace:
                parcel.has_trace = self._client.has("traces", self._trace_id(frame, parcel))
            if parcel.was_begun and parcel.has_trace and parcel.calls:
                # all spans of a parcel go in one request, so the first tells of all
                parcel.has_spans = self._client.has("spans", self._span_id(frame, parcel, parcel.calls[0]))
            if not parcel.has_spans:
                self._dates[parcel.name] = (trace_ms if parcel.has_trace else now, now)
            found = True
        if found:
            self._save()
        return found

    # ------------------------------------------------------------------ trials

    def _send_trials(self, frame: Frame, trials: Sequence[Shown], chosen: Mapping[str, Sequence[Pair]]) -> None:
        """The experiments, then the places of their traces in them."""
        dataset = self._datasets.find(frame)
        links: list[Row] = []
        sent: dict[str, None] = {}
        linked: dict[str, tuple[str, ...]] = {}
        finished: list[str] = []
        for shown in trials:
            pairs = [pair for pair in chosen[shown.key] if pair.name + pair.state in self._accepted]
            states = tuple(pair.name + pair.state for pair in pairs)
            if self._linked.get(shown.key) == states:
                continue
            linked[shown.key] = states
            traces = [(pair.item, self._pair_id(frame, pair)) for pair in pairs]
            mark = "t" + content_hash([shown.key, traces], 12)
            if mark in self._accepted:
                continue
            sent[mark] = None
            experiment = rows.experiment(frame, self._trace, shown)
            self._client.put_experiment(experiment)
            links += [rows.link(frame, dataset, experiment["id"], item, trace_id) for item, trace_id in traces]
            finished.append(experiment["id"])
        for first in range(0, len(links), MOST_ROWS):
            self._client.put("links", links[first : first + MOST_ROWS])
        for first in range(0, len(finished), MOST_ROWS):
            self._client.finish(finished[first : first + MOST_ROWS])
        self._linked.update(linked)
        if sent:
            self._accepted.update(sent)
            self._save()

    # ------------------------------------------------------------------ memory

    def _save(self, **news: str) -> None:
        accepted = tuple(self._accepted)
        self._known = replace(
            self._known,
            **news,
            sent=len({mark[:12] for mark in accepted if mark[0] != "t"}),
            accepted=accepted,
            begun=tuple(self._begun),
            dates=dict(self._dates),
        )
        self._archive.save_traced(self.spec.task_id, dumps(self._known).encode())


class Datasets:
    """The datasets of a run: their rows, read once, and on the server made once, before anything refers to them."""

    def __init__(self, client: Callable[[], Client], archive: RunArchive, created_ms: int, target: Target) -> None:
        self._client = client
        self._archive = archive
        self._created_ms = created_ms
        self._target = target
        self._splits: dict[tuple[str, ...], Splits] = {}
        self._known: dict[str, str] = {}

    def frame(self, spec: TaskSpec) -> Frame:
        """What the rows of a task have in common. Raises UsageError where the run has not kept the task's rows."""
        rows_of = (spec.dataset, spec.data, spec.dataset_csv, str(spec.test_mode))
        splits = self._splits.get(rows_of) or self._archive.load_splits(spec)
        if splits is None:
            raise UsageError(
                f"run {self._archive.run_id!r} holds no rows of dataset {spec.dataset!r}, which its traces are made of;"
                " resume it, and they are kept"
            )
        self._splits[rows_of] = splits
        target = self._target
        return Frame(self._archive.run_id, self._created_ms, spec, splits, target.project, target.workspace)

    def find(self, frame: Frame) -> str:
        """The id of the dataset of a task; its rows are there when this returns."""
        name = frame.dataset
        if name not in self._known:
            client = self._client()
            found = client.find_dataset(name)
            if found is None:
                client.make_dataset(name)
                found = client.find_dataset(name)
            if found is None:
                raise Undelivered(f"the server took dataset {name!r} and does not know it")
            dataset, count = found
            items = rows.dataset_items(frame, dataset)
            if count < len(items):
                client.put_rows(dataset, ids.dataset_group_id(dataset), items)
            self._known[name] = dataset
        return self._known[name]


def _batches(parcels: Sequence[Parcel]) -> Iterator[list[Parcel]]:
    """As many at a time as one request may hold."""
    batch: list[Parcel] = []
    spans = weight = 0
    for parcel in parcels:
        calls = len(parcel.calls)
        if batch and (len(batch) == MOST_ROWS or spans + calls > MOST_ROWS or weight + parcel.weight > MOST_CHARACTERS):
            yield batch
            batch, spans, weight = [], 0, 0
        batch.append(parcel)
        spans, weight = spans + calls, weight + parcel.weight
    if batch:
        yield batch


def _name(entry: Entry) -> str:
    """A few digits that stand for a call among all of its task."""
    return content_hash(place_of(entry), 12)


def read_traced(archive: RunArchive, task_id: str) -> Traced | None:
    """What a server has taken of a task; None if nothing was sent."""
    text = archive.read_traced(task_id)
    return loads(Traced, text) if text else None
