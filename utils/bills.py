"""What was paid, as the journals say: each line is a call that was sent, or a try of one, whichever attempt sent it.

A journal is read on from where the last look ended, so looking again costs what is new. A call that two attempts both
sent was paid twice, and counts twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from utils.archive import Attempt, RunArchive
from utils.errors import UsageError
from utils.journal import Entry, Waste, read_line
from utils.records import Spend


class Bills:
    """The bills of a run's attempts, each read from its journal."""

    def __init__(self, archive: RunArchive) -> None:
        self._archive = archive
        self._read: dict[Attempt, int] = {}  # bytes, up to the end of a line
        self._paid: dict[Attempt, Spend] = {}

    def of_each(self, attempts: Iterable[Attempt]) -> Mapping[Attempt, Spend]:
        """What each of these attempts has paid so far; nothing for one that asked nothing."""
        return {attempt: self._of(attempt) for attempt in attempts}

    def of(self, attempts: Iterable[Attempt]) -> Spend:
        """What these attempts have paid together."""
        return sum(self.of_each(attempts).values(), Spend())

    def _of(self, attempt: Attempt) -> Spend:
        begin = self._read.get(attempt, 0)
        whole, newline, _ = self._archive.read_on("journal", attempt, begin).rpartition(b"\n")
        self._read[attempt] = begin + len(whole) + len(newline)
        paid = self._paid.get(attempt, Spend())
        for line in whole.split(b"\n"):
            try:
                entry = read_line(line.decode("utf-8", "surrogatepass"))
            except (UsageError, UnicodeDecodeError):  # the task that needs it fails with its number; a look goes on
                continue
            if isinstance(entry, Entry | Waste):
                paid = paid + entry.billed
        self._paid[attempt] = paid
        return paid
