"""The journal: the first answer stands, a torn line is none, failures are forgotten where a retry asks again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import entries, json_values, same
from utils.archive import Attempt, local_archive
from utils.errors import CallError, Damaged, ErrorKind, UsageError
from utils.journal import Ending, Entry, Failed, Journal, Waste, outcome, read_line, read_lines
from utils.records import Completion, Message, Request, Role, Spend, StopReason, Usage
from utils.serialization import dumps, encode

REQUEST = Request((Message("user", "q"),), item="e1", prompt="p1")
USAGE = Usage(3, 5)


def answered(text: str, key: str = "k", occurrence: int = 0, usd: float | None = 0.5, cached: bool = False) -> Entry:
    return Entry(key, occurrence, Role.TASK, 1.0, Completion(text, USAGE, usd, cached=cached))


def failed(key: str = "k", occurrence: int = 0) -> Entry:
    return Entry(key, occurrence, Role.TASK, 1.0, failed=Failed(ErrorKind.TRANSIENT, "lost", 6))


def lines(*records: Entry | dict) -> str:
    return "".join(dumps(record) + "\n" for record in records)


def journal(*earlier: str, forget_failures: bool = False) -> Journal:
    book = Journal(lambda line: None)
    for text in earlier:
        book.read(text, forget_failures=forget_failures)
    return book


def text_of(book: Journal, key: str = "k", occurrence: int = 0) -> str | None:
    entry = book.find(key, occurrence)
    return entry.completion.text if entry and entry.completion else None


@given(entries)
@settings(max_examples=50)
def test_a_line_is_the_entry_it_was_written_from(entry: Entry) -> None:
    line = dumps(entry)
    assert "\n" not in line
    assert same(read_line(line), entry)


@given(entries, st.data())
@settings(max_examples=50)
def test_a_torn_last_line_is_skipped_wherever_it_is_torn(entry: Entry, data: st.DataObject) -> None:
    line = dumps(entry)
    torn = line[: data.draw(st.integers(0, len(line) - 1))]
    assert list(read_lines(torn, "x")) == []
    assert text_of(journal(lines(answered("whole")) + torn)) == "whole"


def test_a_torn_last_line_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "utils"):
        Journal(lambda line: None).read(lines(answered("whole")) + '{"key', name="journal/x.jsonl")
    assert "journal/x.jsonl ends in a torn line" in caplog.text


UNREADABLE = ["null", "1", '"ending"', "[]", "{}", '{"ending": 3}', "\x00\x00", "{", '{"a":' * 5000, "[" * 100_000]


@pytest.mark.parametrize("line", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_line_that_cannot_be_read_is_an_error_that_names_file_and_line(line: str) -> None:
    text = lines(answered("whole")) + line + "\n" + lines(answered("paid", "k2"))
    with pytest.raises(Damaged, match=r"^journal/x\.jsonl, line 2 cannot be read: .*; bring the file back, or delete"):
        Journal(lambda line: None).read(text, name="journal/x.jsonl")


def test_a_line_without_answer_or_failure_is_an_error() -> None:
    entry = {**encode(answered("x")), "completion": None}
    with pytest.raises(Damaged, match="neither an answer nor a failure"):
        journal(lines(entry))


@given(json_values)
def test_any_json_is_an_entry_or_refused(value: object) -> None:
    with suppress(UsageError):
        read_line(dumps(value))


def test_fields_of_a_newer_version_are_let_be() -> None:
    entry = encode(answered("x"))
    entry["completion"]["mood"] = "new"
    newer = {**entry, "weather": [1]}
    book = journal(lines(newer, {"ending": {**encode(Ending(StopReason.BUDGET_SECONDS, 7)), "why": "new"}}))
    assert (text_of(book), book.ending) == ("x", Ending(StopReason.BUDGET_SECONDS, 7))


def test_a_journal_says_its_format_and_another_is_refused() -> None:
    written: list[str] = []
    book = Journal(written.append)
    book.record(answered("a"))
    book.record(answered("b", "k2"))
    assert "".join(written).split("\n")[0] == '{"format":1}'
    assert "".join(written).count("format") == 1
    with pytest.raises(Damaged, match="line 1 cannot be read: it is of format 2, this version reads 1; use"):
        journal("".join(written).replace('"format":1', '"format":2'))


def test_the_first_answer_stands() -> None:
    assert text_of(journal(lines(answered("first"), answered("second")))) == "first"
    assert text_of(journal(lines(answered("first")), lines(answered("second")))) == "first"


def test_occurrences_of_one_request_are_kept_apart() -> None:
    book = journal(lines(answered("a"), answered("b", occurrence=1)))
    assert (text_of(book), text_of(book, occurrence=1), book.find("k", 2)) == ("a", "b", None)


def test_a_failure_is_remembered_so_that_a_resumed_attempt_takes_the_same_path() -> None:
    entry = journal(lines(failed())).find("k", 0)
    assert entry
    assert entry.failed
    error = entry.failed.as_error()
    assert (error.kind, error.message, error.attempts) == (ErrorKind.TRANSIENT, "lost", 6)


def test_a_retry_forgets_failures_and_keeps_answers() -> None:
    book = journal(lines(failed("k"), answered("kept", "other")), forget_failures=True)
    assert book.find("k", 0) is None
    assert text_of(book, "other") == "kept"


def test_after_a_retry_the_answer_of_a_call_that_had_failed_stands() -> None:
    book = Journal(lambda line: None)
    book.read(lines(failed()), forget_failures=True)
    book.read(lines(answered("mended")))
    assert text_of(book) == "mended"


def test_a_recorded_outcome_is_written_before_it_is_found() -> None:
    written: list[str] = []

    def append(line: str) -> None:
        assert book.find("k", 0) is None
        written.append(line)

    book = Journal(append)
    book.record(answered("x"))
    assert "".join(written).endswith("}\n" + dumps(answered("x")) + "\n")
    assert text_of(book) == "x"
    assert len(book) == 1


def test_answers_are_synced_together_once_a_second() -> None:
    done: list[str] = []
    now = [100.0]
    book = Journal(lambda line: done.append("line"), lambda: done.append("sync"), lambda: now[0])
    for key, passed in (("a", 0.0), ("b", 0.4), ("c", 0.4), ("d", 0.4), ("e", 0.1)):
        now[0] += passed
        book.record(answered("x", key))
    assert done == ["line", "sync", "line", "line", "line", "sync", "line"]


def test_what_came_after_the_last_sync_is_synced_when_asked_and_once() -> None:
    done: list[str] = []
    book = Journal(lambda line: done.append("line"), lambda: done.append("sync"), lambda: 100.0)
    book.sync()
    for key in ("a", "b"):
        book.record(answered("x", key))
    book.sync()
    book.sync()
    assert done == ["line", "sync", "line", "sync"]


def test_an_outcome_that_could_not_be_written_is_not_found() -> None:
    def append(line: str) -> None:
        raise OSError("disk full")

    book = Journal(append)
    with pytest.raises(OSError, match="disk full"):
        book.record(answered("x"))
    assert book.find("k", 0) is None


def test_what_was_written_is_read_again() -> None:
    written: list[str] = []
    book = Journal(written.append)
    for entry in (answered("a"), failed("other")):
        book.record(entry)
    book.end(StopReason.BUDGET_SECONDS, 7)
    again = journal("".join(written))
    assert text_of(again) == "a"
    assert again.find("other", 0) == failed("other")
    assert again.ending == Ending(StopReason.BUDGET_SECONDS, 7)


def test_a_retry_forgets_where_the_clock_ended_the_first_try() -> None:
    text = lines({"ending": Ending(StopReason.BUDGET_SECONDS, 7)})
    assert journal(text).ending
    assert journal(text, forget_failures=True).ending is None


# --------------------------------------------------------------------------- money


def test_money_of_calls_that_were_not_asked_again_is_stray() -> None:
    book = journal(lines(answered("a", "k1"), answered("b", "k2"), answered("c", "k2", 1)))
    assert book.stray([("k1", 0), ("k2", 1)]) == answered("b").billed
    assert book.stray([("k1", 0), ("k2", 0), ("k2", 1)]) == Spend()


def test_calls_of_this_attempt_that_came_into_no_ledger_are_stray() -> None:
    book = journal(lines(answered("a", "k1")))
    book.record(answered("b", "k2"))
    assert book.stray([("k1", 0), ("k2", 0)]) == Spend()
    assert book.stray([("k1", 0)]) == answered("b").billed


LOST = Spend(tokens_in=7, tokens_out=9, usd=0.25, tokens_estimated=16)


def test_tries_without_a_usable_answer_are_written_down_and_kept_over_attempts_and_retries() -> None:
    written: list[str] = []
    book = Journal(written.append)
    book.waste(Waste("k1", 0, LOST))
    book.waste(Waste("k1", 0, LOST))
    book.record(failed("k1"))
    again = Journal(lambda line: None)
    again.read("".join(written), forget_failures=True)
    assert (again.find("k1", 0), again.wasted("k1", 0)) == (None, LOST + LOST)
    assert again.stray([]) == LOST + LOST
    assert again.stray([("k1", 0)]) == Spend()


def test_of_a_call_that_two_attempts_sent_one_answer_is_used_and_both_were_paid() -> None:
    book = journal(lines(answered("first")), lines(answered("second")))
    book.record(answered("third", "k2"))
    assert book.stray([("k", 0), ("k2", 0)]) == answered("second").billed
    assert book.paid == sum((answered("x").billed for _ in range(3)), Spend())


def test_failures_and_cached_answers_cost_nothing_and_still_count_as_calls() -> None:
    for entry in (failed(), answered("a", cached=True)):
        assert entry.billed == Spend()
        assert entry.spend.task_calls == 1
    assert failed().spend.usd == 0.0
    assert answered("a").billed == answered("a").spend == Spend(1, 0, 0, 3, 5, 0.5)


def test_an_answer_of_unknown_price_is_paid_at_an_unknown_price() -> None:
    assert journal(lines(answered("a", usd=None))).stray([]).usd is None


# --------------------------------------------------------------------------- entries


def test_messages_are_kept_where_they_do_not_follow_from_prompt_and_item() -> None:
    completion = Completion("x", USAGE, 0.0)
    assert outcome(REQUEST, "k", 0, Role.TASK, 0.0, completion).messages == ()
    for role in (Role.OPTIMIZER, Role.JUDGE):
        assert outcome(REQUEST, "k", 0, role, 0.0, completion).messages == REQUEST.messages


def test_an_outcome_is_an_answer_or_a_failure() -> None:
    error = CallError(ErrorKind.CONTENT_FILTER, "declined", attempts=2)
    entry = outcome(REQUEST, "k", 3, Role.TASK, 1.23456, error)
    assert (entry.completion, entry.failed) == (None, Failed(ErrorKind.CONTENT_FILTER, "declined", 2))
    assert (entry.key, entry.occurrence, entry.elapsed_s, entry.prompt, entry.item) == ("k", 3, 1.235, "p1", "e1")
    assert outcome(REQUEST, "k", 3, Role.TASK, 0.0, Completion("x", USAGE, 0.0)).failed is None


def test_an_outcome_is_dated_and_says_how_long_it_took() -> None:
    entry = outcome(REQUEST, "k", 0, Role.TASK, 0.0, Completion("x", USAGE, 0.0), 1_700_000_000.12345, 2.34567)
    assert (entry.at, entry.took_s) == (1_700_000_000.123, 2.346)


def test_a_line_from_before_calls_were_dated_is_read() -> None:
    value = encode(answered("old"))
    del value["at"], value["took_s"]
    assert text_of(journal(lines(value))) == "old"


@pytest.mark.parametrize("text", ["a\ud83d", "a\u2028b\x85c", "\x00", "é\r\n"])
def test_any_text_comes_back_from_the_file_unchanged(text: str, tmp_path: Path) -> None:
    archive, attempt = local_archive(tmp_path, "r"), Attempt("t", 1, "001")
    archive.journal(attempt)(lines(answered(text)))
    assert text_of(journal(archive.read_journal(attempt))) == text


def test_a_file_that_is_torn_within_a_character_keeps_its_whole_lines(tmp_path: Path) -> None:
    archive, attempt = local_archive(tmp_path, "r"), Attempt("t", 1, "001")
    archive.journal(attempt)(lines(answered("é\ud83d"), answered("é", "other")))
    path = next((tmp_path / "r" / "journal").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex("é".encode()) + 1])
    book = journal(archive.read_journal(attempt))
    assert (text_of(book), book.find("other", 0)) == ("é\ud83d", None)
