"""What was paid is what the journals say: every call that was sent, read once however often one looks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from utils.archive import Attempt, RunArchive, local_archive
from utils.bills import Bills
from utils.errors import ErrorKind
from utils.journal import Entry, Failed, Waste
from utils.records import Completion, Role, Spend, Usage
from utils.serialization import dumps

FIRST, SECOND = Attempt("t", 1, "001"), Attempt("t", 1, "002")


def entry(key: str = "k", usd: float = 0.5, *, cached: bool = False) -> Entry:
    return Entry(key, 0, Role.TASK, 1.0, Completion("a", Usage(3, 5), usd, cached=cached))


@pytest.fixture
def archive(tmp_path: Path) -> RunArchive:
    return local_archive(tmp_path, "r")


def write(archive: RunArchive, attempt: Attempt, *records: Entry | str) -> None:
    with closing(archive.journal(attempt)) as append:
        for record in records:
            append(record if isinstance(record, str) else dumps(record) + "\n")


def test_an_attempt_that_asked_nothing_has_paid_nothing(archive: RunArchive) -> None:
    assert Bills(archive).of([FIRST, SECOND]) == Spend()


def test_a_call_that_two_attempts_sent_was_paid_twice(archive: RunArchive) -> None:
    write(archive, FIRST, entry())
    write(archive, SECOND, entry(), entry("other"))
    bills = Bills(archive)
    assert bills.of_each([FIRST, SECOND]) == {FIRST: Spend(1, 0, 0, 3, 5, 0.5), SECOND: Spend(2, 0, 0, 6, 10, 1.0)}
    assert bills.of([FIRST, SECOND]).usd == 1.5


def test_what_was_not_paid_costs_nothing(archive: RunArchive) -> None:
    lost = Entry("k", 0, Role.TASK, 1.0, failed=Failed(ErrorKind.BAD_REQUEST, "no", 1))
    write(archive, FIRST, lost, entry(cached=True), '{"ending": {"reason": "budget_seconds", "logical_calls": 3}}\n')
    assert Bills(archive).of([FIRST]).usd == 0


def test_a_try_that_was_paid_without_an_answer_is_on_the_bill(archive: RunArchive) -> None:
    write(archive, FIRST, dumps({"waste": Waste("k", 0, Spend(tokens_in=7, usd=0.25))}) + "\n", entry())
    assert Bills(archive).of([FIRST]) == Spend(1, 0, 0, 10, 5, 0.75)


def test_a_look_reads_on_where_the_last_one_ended_and_waits_for_the_end_of_a_line(
    archive: RunArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets: list[int] = []
    read_on = archive.blobs.read_on
    monkeypatch.setattr(archive.blobs, "read_on", lambda name, at: (offsets.append(at), read_on(name, at))[1])
    bills, line = Bills(archive), dumps(entry()) + "\n"
    with closing(archive.journal(FIRST)) as append:
        append(line + line[:20])
        assert bills.of([FIRST]).usd == 0.5
        append(line[20:])
        assert bills.of([FIRST]).usd == 1.0
    assert offsets == [0, len(line)]
