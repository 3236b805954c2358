"""Ids follow from what they name, and are what Opik takes."""

from __future__ import annotations

import uuid
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import entries, texts
from utils.errors import ErrorKind
from utils.journal import Entry, Failed
from utils.tracing import ids

moments = st.integers(0, (1 << 48) - 1)


@given(moments, st.lists(texts, max_size=4))
def test_an_id_is_a_uuid_of_version_7_with_its_date_in_front(ms: int, parts: list[str]) -> None:
    made = uuid.UUID(ids.uuid7(ms, *parts))
    assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, ms)


@given(moments, st.lists(st.text("abc", max_size=3), max_size=4), st.lists(st.text("abc", max_size=3), max_size=4))
def test_equal_things_have_equal_ids_and_others_have_others(ms: int, some: list[str], others: list[str]) -> None:
    assert (ids.uuid7(ms, "x", *some) == ids.uuid7(ms, "x", *others)) == (some == others)


@given(entries)
def test_a_call_that_failed_and_its_answer_are_two(entry: Entry) -> None:
    answered = replace(entry, failed=None)
    failed = replace(entry, failed=Failed(ErrorKind.TRANSIENT, "", 1))
    assert ids.call_id(1, "call", "o", answered) != ids.call_id(1, "call", "o", failed)
    assert ids.call_id(1, "call", "o", answered) != ids.call_id(1, "ask", "o", answered)


def test_a_place_in_an_experiment_is_dated_as_the_experiment_is() -> None:
    experiment = ids.trial_id(1_700_000_000_123, "o", "t")
    assert uuid.UUID(ids.link_id(experiment, "row")).int >> 80 == 1_700_000_000_123
