"""What must hold after every schedule on Modal, beside what holds everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import litellm

from tests.simulation.checks import (
    each_task_is_final,
    no_answer_is_asked_for_again,
    results_are_those_of_a_good_day,
    results_tell_what_the_books_tell,
    what_is_billed_is_booked,
)
from tests.simulation.dispatches import RUN, Dispatches, PlayedOnModal, play
from tests.simulation.schedule import MODEL
from tests.simulation.world import KILLED

REWRITTEN = ("paid",)  # folders whose files are written again and again
GROWING = ("journal", "trace")  # and those whose files only grow


def of(scenario: Dispatches) -> list[str]:
    """Everything that is wrong with a schedule; nothing is how it should be."""
    return breaches(play(scenario))


def breaches(played: PlayedOnModal) -> list[str]:
    """The same of one that was played."""
    found = (each_task_is_final, results_are_those_of_a_good_day, no_answer_is_asked_for_again)
    found += (what_is_billed_is_booked, results_tell_what_the_books_tell)
    found += (no_file_is_written_over, each_task_has_one_result, no_more_is_paid_than_the_limit)
    found += (no_call_is_unknown, nothing_begins_once_it_is_cancelled)
    return [f"{check.__name__}: {line}" for check in found for line in check(played)]


def no_file_is_written_over(played: PlayedOnModal) -> Iterator[str]:
    """Neither from outside nor by a commit: a file on the volume keeps what it has, journals grow."""
    for path, before, after in played.cloud.volume.replaced:
        folder = path.parent.name
        is_kept = folder in GROWING and after.startswith(before)
        if folder not in REWRITTEN and not is_kept and not path.name.startswith("."):
            yield f"{folder}/{path.name}: {len(before)} bytes became {len(after)}"


def each_task_has_one_result(played: PlayedOnModal) -> Iterator[str]:
    names = [path.name for path in played.cloud.volume.files if path.parent.name == "results"]
    counts = Counter(name.partition("@")[0] for name in names if not name.startswith("."))
    for task_id in played.states:
        if counts[task_id] != 1:
            yield f"{task_id} has {counts[task_id]} results"


def no_more_is_paid_than_the_limit(played: PlayedOnModal) -> Iterator[str]:
    """By the provider's own count, whoever was lost with coins in hand."""
    price = litellm.model_cost[MODEL.removeprefix("openai/")]
    for limit_usd, (read, written) in played.billed:
        paid = read * price["input_cost_per_token"] + written * price["output_cost_per_token"]
        if paid > limit_usd:
            yield f"${paid:.6f} of ${limit_usd:.6f}"


def no_call_is_unknown(played: PlayedOnModal) -> Iterator[str]:
    """Whoever made a call, knew its id and was not killed has written it down, for `cancel` to find."""
    for call in played.cloud.calls.values():
        if call.is_told and call.by.exitcode != KILLED and call.id not in played.written:
            yield f"{call.id} of {call.task_id}, made by a dispatcher that ended with {call.by.exitcode}"


def nothing_begins_once_it_is_cancelled(played: PlayedOnModal) -> Iterator[str]:
    """Whether or not the one who cancelled knew its call: until the next command no new container asks anything."""
    for since, until in played.cancelled:
        for asked in played.provider.calls:
            begun = min(point.at for point in played.machine.points.passed if point.process == asked.process.name)
            if since <= begun and asked.at < until:
                yield f"{asked.process.name} of {RUN} asked at {asked.at:.1f}, it was cancelled at {since:.1f}"
