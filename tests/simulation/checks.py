"""What must hold after every schedule, as functions of what came of it. Each yields a line for each breach.

A call is *at risk* where its answer could not have been written down: its process died within a moment of getting it,
or before; after a power cut those of a second more, for lines are synced once a second; on Modal those since the last
commit. Every other answer that was given is in the books, and is never asked for again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.simulation.disk import OPERATION_S, Scope
from tests.simulation.provider import Call
from tests.simulation.schedule import Played, undisturbed
from utils.journal import SYNC_EVERY_S, Ending, read_lines
from utils.records import Spend, TaskResult
from utils.serialization import encode

MOMENT_S = 24 * OPERATION_S  # for the answers of one instant to be shared and written down, one after the other
TICK_S = 0.001  # what rounding on two clocks can make
PAUSE_S = 12.0  # of back-off, of a run that is started again
TRIES = re.compile(r" \(\d+ tries in \d+ s\)")
ONCE = ("plan", "data", "submissions", "started", "details", "results")  # folders and files that are written once


def breaches(played: Played) -> list[str]:
    """Everything that is wrong with a schedule; nothing is how it should be."""
    found = (each_task_is_final, results_are_those_of_a_good_day, no_answer_is_asked_for_again)
    found += (what_is_billed_is_booked, no_call_before_its_retry_after, no_file_is_written_twice)
    found += (nobody_waits_for_nothing, no_claim_is_left, results_tell_what_the_books_tell)
    return [f"{check.__name__}: {line}" for check in found for line in check(played)]


def each_task_is_final(played: Played) -> Iterator[str]:
    if not played.tasks:
        yield "there is no plan"
    for task_id, state in played.states.items():
        if not state.status.is_final:
            yield f"{task_id} is {state.status} after {played.commands} commands"


def results_are_those_of_a_good_day(played: Played) -> Iterator[str]:
    expected = undisturbed(played.scenario).results
    for task_id, result in expected.items():
        if task_id in played.results and (apart := _apart(_evidence(result), _evidence(played.results[task_id]))):
            yield f"{task_id}: {apart}"


def no_answer_is_asked_for_again(played: Played) -> Iterator[str]:
    """Of one question a task needs as many answers as on a good day; where answers are shared, a run needs one."""
    needed = _answered(undisturbed(played.scenario), [])
    for (who, question), calls in _answered(played, at_risk(played)).items():
        if len(calls) > max(1, len(needed.get((who, question), ()))):
            times = ", ".join(f"{call.delivered_at:.3f} by {call.process.name}" for call in calls)
            yield f"{question[:8]} was answered to {who or 'the run'} at {times}"


def what_is_billed_is_booked(played: Played) -> Iterator[str]:
    """The books hold all tokens that were billed, but for some that were at risk; and more only as estimates."""
    books = sum((_books(played, task_id) for task_id in played.journals), Spend())
    booked, billed = books.tokens - books.tokens_estimated, _bill(played.provider.calls)
    lost = _bill(at_risk(played))
    if not billed - lost <= booked <= billed:
        yield f"{billed} tokens billed, {booked} booked, {lost} at risk"


def results_tell_what_the_books_tell(played: Played) -> Iterator[str]:
    for task_id, result in played.results.items():
        told, booked = result.spent.billed + result.scoring.billed, _books(played, task_id)
        if replace(told, usd=0.0) != replace(booked, usd=0.0):
            yield f"{task_id}: {told} told, {booked} booked"


def no_call_before_its_retry_after(played: Played) -> Iterator[str]:
    """Whoever asks: once one call was told to come back later, none is sent before."""
    cuts = [point.at for point, crash in played.machine.points.crashed if crash.scope is Scope.POWER]
    lost = at_risk(played)
    for told in played.provider.calls:
        at = told.delivered_at
        if told.not_before and at is not None and told not in lost:
            until = min([told.not_before, *(cut for cut in cuts if cut >= at)])  # nobody remembers it after that
            for call in played.provider.calls:
                if at + TICK_S < call.at < until - TICK_S:
                    yield f"{call.question[:8]} was sent at {call.at:.3f}, none was to be from {at:.3f} to {until:.3f}"


def no_file_is_written_twice(played: Played) -> Iterator[str]:
    for path in played.machine.disk.replaced:
        if path.parent.name in ONCE or path.name.startswith("plan"):
            yield f"{path.parent.name}/{path.name}"


def nobody_waits_for_nothing(played: Played) -> Iterator[str]:
    """While a run goes on, a call is open, or has to wait: for its Retry-After, or a moment's back-off."""
    covered = 0.0
    for call in sorted(played.provider.calls, key=lambda call: call.at):
        if call.at > covered + PAUSE_S:
            yield f"from {covered:.0f} to {call.at:.0f} s nobody asked anything"
        ended = call.delivered_at if call.delivered_at is not None else call.process.died_at
        covered = max(covered, call.not_before, ended)


def no_claim_is_left(played: Played) -> Iterator[str]:
    """A claim on a question outlives only an attempt that came to no end."""
    for attempt in set(played.claims):
        if any(state.result.startswith(f"{attempt}.") for state in played.states.values()):
            yield f"{played.claims.count(attempt)} questions are claimed by {attempt}, which is done"


# --------------------------------------------------------------------------- what is at risk


def at_risk(played: Played) -> list[Call]:
    """The answers that nobody could write down, or whose lines went with the power."""
    is_powerless = any(crash.scope is Scope.POWER for _, crash in played.machine.points.crashed)
    margin = MOMENT_S + (SYNC_EVERY_S if is_powerless else 0.0)

    def is_lost(call: Call) -> bool:
        process, at = call.process, call.delivered_at
        if process.kept_until is not None:
            return process.exitcode != 0 and (at is None or at >= process.kept_until - MOMENT_S)
        return process.is_dead and process.exitcode != 0 and (at is None or at >= process.died_at - margin)

    return [call for call in played.provider.calls if is_lost(call)]


def _answered(played: Played, lost: list[Call]) -> dict[tuple[str, str], list[Call]]:
    """The answers that were given for good, by who needs them."""
    is_shared = played.scenario.cache and not played.lost_cache
    found: dict[tuple[str, str], list[Call]] = {}
    for call in played.provider.calls:
        if call.outcome == "answered" and call.delivered_at is not None and call not in lost:
            who = "" if is_shared and call.is_shared else call.process.name
            found.setdefault((who, call.question), []).append(call)
    return found


def _books(played: Played, task_id: str) -> Spend:
    """What all journals of a task say was paid."""
    texts = played.journals[task_id]
    lines = (line for name, text in texts.items() for line in read_lines(text, name))
    return sum((line.billed for line in lines if not isinstance(line, Ending)), Spend())


def _bill(calls: list[Call]) -> int:
    return sum(sum(call.tokens) for call in calls)


# --------------------------------------------------------------------------- what a result says


def _evidence(result: TaskResult) -> Any:
    """A result less what a bad day may change: time, who paid, and how an error was met."""
    plain = encode(replace(result, seconds=0.0))
    for accounts in (plain["spent"], plain["scoring"]):
        accounts.pop("billed")
    if plain["error"]:
        plain["error"] = plain["error"]["kind"]
    return _without_tries(plain)


def _without_tries(value: Any) -> Any:
    """The same, without what an error's message says of how often and how long it was tried."""
    if isinstance(value, str):
        return TRIES.sub("", value)
    if isinstance(value, list):
        return [_without_tries(item) for item in value]
    return {key: _without_tries(item) for key, item in value.items()} if isinstance(value, dict) else value


def _apart(expected: Any, found: Any, path: str = "") -> str:
    """Where two results differ first; empty where they do not."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            if apart := _apart(expected.get(key), found.get(key), f"{path}.{key}".lstrip(".")):
                return apart
        return ""
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return next(filter(None, (_apart(a, b, f"{path}[{i}]") for i, (a, b) in pairs)), "")
    return "" if expected == found else f"{path} is {str(found)[:80]}, not {str(expected)[:80]}"
