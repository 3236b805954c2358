"""The journal of a task: every answered model call, written down before it is used.

Calls are keyed by the content of the request and its occurrence number, so running the optimizer again from its start
with the same seed finds its answers here until the frontier, at no cost. A file is appended to by one attempt, a line a
call, and one for each try that was paid without a usable answer; a resumed attempt reads the files of all earlier ones.
A torn last line, left by a kill, is skipped; any other line that cannot be read is an error, since skipping it would be
paying for its answer again.

Lines are written through to the operating system at once, so they survive the death of the process; those of a second
are synced together, so a power cut costs the answers of a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from utils.errors import CallError, Damaged, ErrorKind, UsageError
from utils.records import Completion, Message, Request, Role, Spend, StopReason, Usage
from utils.serialization import FORMAT, FORMAT_KEY, decode, dumps, parse, refuse_format

logger = logging.getLogger("utils.journal")

SYNC_EVERY_S = 1.0  # while lines come, and where they stop coming


@dataclass(frozen=True)
class Failed:
    """A call that failed for good, as an optimizer saw it; journalled so that a replay takes the same path."""

    kind: ErrorKind
    message: str
    attempts: int

    def as_error(self) -> CallError:
        return CallError(self.kind, self.message, attempts=self.attempts)


@dataclass(frozen=True)
class Entry:
    """One line: what was asked, by whom, and the answer or the failure.

    The messages of task calls are not repeated: they follow from `prompt` and `item`.
    """

    key: str
    occurrence: int
    role: Role
    elapsed_s: float  # seconds spent on the task when the answer came, over all attempts
    completion: Completion | None = None
    failed: Failed | None = None
    prompt: str = ""
    item: str = ""
    messages: tuple[Message, ...] = ()
    at: float = 0.0  # wall clock when the outcome came, unix seconds; 0 in journals that are older than this field
    took_s: float = 0.0  # from the call's turn to its outcome: the answer's latency, and all waiting and retrying

    @property
    def spend(self) -> Spend:
        """What this call used, cached or not. A failed call counts as a call."""
        if self.completion is None:
            return Spend.of(self.role, Usage(0, 0), 0.0)
        return Spend.of(self.role, self.completion.usage, self.completion.cost_usd)

    @property
    def billed(self) -> Spend:
        """What was paid for the outcome: nothing for a failure or an answer from the cache. Lost tries are `Waste`."""
        if self.completion is None or self.completion.cached:
            return Spend()
        return self.spend


@dataclass(frozen=True)
class Waste:
    """The line of a try that was paid and gave no usable answer, written as soon as it is known."""

    key: str
    occurrence: int
    billed: Spend


@dataclass(frozen=True)
class Ending:
    """The line written when the clock ended an optimization; replay stops at the same call."""

    reason: StopReason
    logical_calls: int


Record = Entry | Waste | Ending


class Journal:
    """What is known of a task's calls, and where new ones are written.

    `append` writes one line to this attempt's file, and `sync` makes what was written survive a power cut; the files of
    earlier attempts are read first, oldest first.
    """

    def __init__(
        self,
        append: Callable[[str], None],
        sync: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._append = append
        self._sync = sync
        self._clock = clock
        self._synced_at = -SYNC_EVERY_S
        self._is_synced = True
        self._has_head = False
        self._entries: dict[tuple[str, int], Entry] = {}
        self._wasted: dict[tuple[str, int], Spend] = {}
        self.ending: Ending | None = None
        self.paid = Spend()  # for all lines
        self._superseded = Spend()  # of these, for lines that another line stands for

    def read(self, text: str, *, name: str = "the journal", forget_failures: bool = False) -> None:
        """Take in the journal of an earlier attempt; failed calls from before a retry are to be asked again.

        Raises Damaged, with the `name` of the file and the number of the line.
        """
        for entry in read_lines(text, name):
            if isinstance(entry, Ending):
                self.ending = None if forget_failures else entry
            elif isinstance(entry, Waste):
                self._add(entry)
            else:
                # two attempts may hold the same call where a worker outlived its parent: the first answer stands,
                # and both were paid
                is_known = (entry.key, entry.occurrence) in self._entries
                is_forgotten = forget_failures and entry.failed is not None
                self.paid = self.paid + entry.billed
                if is_known or is_forgotten:
                    self._superseded = self._superseded + entry.billed
                else:
                    self._entries[entry.key, entry.occurrence] = entry

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: str, occurrence: int) -> Entry | None:
        """The journalled outcome of a call, or None at the frontier."""
        return self._entries.get((key, occurrence))

    def record(self, entry: Entry) -> None:
        """Write an outcome down. Returns when the operating system has it."""
        self._write(entry)
        self.paid = self.paid + entry.billed
        self._entries[entry.key, entry.occurrence] = entry

    def waste(self, waste: Waste) -> None:
        """Write a try down that was paid and gave no usable answer."""
        self._write({"waste": waste})
        self._add(waste)

    def wasted(self, key: str, occurrence: int) -> Spend:
        """What tries without a usable answer of this call took, in all attempts."""
        return self._wasted.get((key, occurrence), Spend())

    def end(self, reason: StopReason, logical_calls: int) -> None:
        """Write down that the clock, which no replay can reproduce, ended the optimization here."""
        self.ending = Ending(reason, logical_calls)
        self._write({"ending": self.ending})

    @property
    def due_s(self) -> float:
        """Seconds until what was written has to be synced, or to look again."""
        return SYNC_EVERY_S - (0.0 if self._is_synced else min(SYNC_EVERY_S, self._clock() - self._synced_at))

    def sync(self) -> None:
        """What was written so far survives a power cut."""
        if not self._is_synced:
            self._sync()
            self._synced_at, self._is_synced = self._clock(), True

    def stray(self, used: Iterable[tuple[str, int]]) -> Spend:
        """What was paid for calls that are in no ledger: not asked again by this attempt, or of a batch cut short."""
        charged = set(used)
        entries = [self._entries[at].billed for at in sorted(self._entries.keys() - charged)]
        return sum([*entries, *(self._wasted[at] for at in sorted(self._wasted.keys() - charged))], self._superseded)

    def _write(self, record: Any) -> None:
        head = "" if self._has_head else dumps({FORMAT_KEY: FORMAT}) + "\n"
        self._append(head + dumps(record) + "\n")
        self._has_head = True
        self._is_synced = False
        if self._clock() - self._synced_at >= SYNC_EVERY_S:
            self.sync()

    def _add(self, waste: Waste) -> None:
        self.paid = self.paid + waste.billed
        self._wasted[waste.key, waste.occurrence] = self.wasted(waste.key, waste.occurrence) + waste.billed


def read_lines(text: str, name: str) -> Iterator[Record]:
    """The records of a journal, in order. A torn last line is skipped, and told in the log.

    Raises Damaged for any other line that cannot be read, with the `name` of the file and the line's number.
    """
    *whole, last = text.split("\n")
    for number, line in enumerate(whole, 1):
        try:
            record = read_line(line)
        except UsageError as error:
            raise Damaged(
                f"{name}, line {number} cannot be read: {error}; bring the file back, or delete the line to have its"
                " call asked and paid again"
            ) from None
        if record is not None:
            yield record
    try:
        torn = read_line(last)
    except UsageError:
        logger.warning("%s ends in a torn line, left by a kill: its call is asked again", name)
    else:
        yield from () if torn is None else (torn,)


def read_line(line: str) -> Record | None:
    """The record of one line; None for one that is empty, or says of which format the others are. Raises UsageError."""
    if not line.strip():
        return None
    value = parse(line)
    if isinstance(value, dict) and FORMAT_KEY in value:
        refuse_format(value)
        return None
    if isinstance(value, dict) and "ending" in value:
        return decode(Ending, value["ending"], newer=True)
    if isinstance(value, dict) and "waste" in value:
        return decode(Waste, value["waste"], newer=True)
    entry = decode(Entry, value, newer=True)
    if entry.completion is None and entry.failed is None:
        raise UsageError("it holds neither an answer nor a failure")
    return entry


def outcome(
    request: Request,
    key: str,
    occurrence: int,
    role: Role,
    elapsed_s: float,
    answer: Completion | CallError,
    at: float = 0.0,
    took_s: float = 0.0,
) -> Entry:
    """The entry for an answer that has just come."""
    completion = answer if isinstance(answer, Completion) else None
    failed = Failed(answer.kind, answer.message, answer.attempts) if isinstance(answer, CallError) else None
    messages = () if role is Role.TASK else request.messages
    return Entry(
        key,
        occurrence,
        role,
        round(elapsed_s, 3),
        completion,
        failed,
        request.prompt,
        request.item,
        messages,
        round(at, 3),
        round(took_s, 3),
    )
