"""What is wrong with the answers of a task, and when it is so much that its figures mean nothing.

A call that failed is in no mean; too many of them end the task. An answer that was cut, is empty, was held back or
could not be read is scored like any other, and told; an evaluation of which most answers are cut or empty measures the
limit on their length and not the prompt, and ends the task as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from utils.errors import ErrorKind, TaskError
from utils.records import Completion, Evaluation, Flaw, ItemScore, Score

REFUSALS = frozenset({ErrorKind.CONTENT_FILTER, ErrorKind.BAD_REQUEST, ErrorKind.CONTEXT_LENGTH})  # of a request
JUDGED = 20  # calls, before the share of failures is judged
SURE = 0.05  # chance of so many failures at the limit, under which the true share is taken to be above it
WHOLE = 5  # rows; where none of so many is answered, it is no accident
NOTED = 0.01  # share of an evaluation's answers from which a flaw is told
NAMED = 5  # rows that are named in a sentence

CUT_REASONS = ("length", "max_tokens")
ROOM = "raise max_tokens in --model-params"
SENTENCES: Mapping[Flaw, tuple[str, str]] = {
    Flaw.CUT: ("cut by max_tokens", ROOM),
    Flaw.EMPTY: ("empty", f"a model that thinks may need more room: {ROOM}"),
    Flaw.REFUSED: ("held back by the provider's content filter", ""),
    Flaw.UNPARSABLE: ("in which the metric found nothing to score", ""),
}


# --------------------------------------------------------------------------- answers


def flaw_of(answer: Completion, score: Score) -> Flaw | None:
    """What is wrong with an answer that came; the first that applies."""
    if answer.finish_reason in CUT_REASONS:
        return Flaw.CUT
    if answer.finish_reason == "content_filter":
        return Flaw.REFUSED
    if not answer.text.strip():
        return Flaw.EMPTY
    return None if score.found else Flaw.UNPARSABLE


def flaws(items: Iterable[ItemScore]) -> dict[str, int]:
    """How many answers have which flaw; a call that the content filter refused is among them."""
    refused = ErrorKind.CONTENT_FILTER
    found = Counter(Flaw.REFUSED if item.error is refused else item.flaw for item in items)
    return {flaw.value: found[flaw] for flaw in Flaw if found[flaw]}


def refuse_cut(evaluation: Evaluation) -> None:
    """Raise TaskError where more than half of the answers are cut or empty: the limit was scored, not the prompt."""
    found = Counter(item.flaw for item in evaluation.items)
    flawed = found[Flaw.CUT] + found[Flaw.EMPTY]
    if 2 * flawed > len(evaluation.items):
        flaw = max((Flaw.CUT, Flaw.EMPTY), key=found.__getitem__)
        what, way = SENTENCES[flaw]
        size = len(evaluation.items)
        raise TaskError(
            ErrorKind.MALFORMED,
            f"{found[flaw]} of {size} answers are {what}, so their score says nothing of the prompt; {way}",
        )


def warnings_of(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """A sentence for each flaw that is not rare, on the evaluation with most of it; `evaluations` by their names."""
    sentences = []
    for flaw, (what, way) in SENTENCES.items():
        counts = {name: flaws(trial.items).get(flaw.value, 0) for name, trial in evaluations.items() if trial.items}
        worst = max(counts, key=lambda name: counts[name] / len(evaluations[name].items), default="")
        size = len(evaluations[worst].items) if worst else 0
        if worst and counts[worst] >= NOTED * size:
            share = f"{100 * counts[worst] / size:.0f} % of {size}"
            sentences.append(f"answers {what}: {share} ({'; '.join(filter(None, (worst, way)))})")
    return sentences


# --------------------------------------------------------------------------- calls


class Calls:
    """All task calls of a task so far, by their rows: are more of them failing than may?

    A row that the provider refuses whenever it is asked says something of the row, not of the provider: it is in no
    mean, is named in `warnings`, and counts as one failed call however often it was asked.
    """

    def __init__(self, max_failed_share: float) -> None:
        self._max_share = max_failed_share
        self._asked: Counter[str] = Counter()
        self._failed: dict[str, Counter[ErrorKind]] = {}
        self._messages: dict[ErrorKind, str] = {}

    def add(self, items: Iterable[ItemScore]) -> None:
        """Enter what came of some calls."""
        for item in items:
            self._asked[item.example_id] += 1
            if item.error is not None:
                self._failed.setdefault(item.example_id, Counter())[item.error] += 1
                self._messages.setdefault(item.error, item.error_message)

    @property
    def refused(self) -> dict[str, ErrorKind]:
        """The rows that were refused whenever they were asked, with the class of it."""
        return {
            row: kinds.most_common(1)[0][0]
            for row, kinds in self._failed.items()
            if kinds.total() == self._asked[row] and kinds.keys() <= REFUSALS
        }

    def check(self, least: int = JUDGED) -> None:
        """Raise TaskError where the share of failed calls is above the limit for certain, not by bad luck.

        Fewer calls than `least` are not judged: who looks after every batch would be misled by the first few.
        """
        refused = self.refused
        again = sum(self._asked[row] - 1 for row in refused)
        size = self._asked.total() - again
        failed = sum(kinds.total() for kinds in self._failed.values()) - again
        if size >= least and exceeds(failed, size, self._max_share):
            kinds: Counter[ErrorKind] = sum(self._failed.values(), Counter())
            way = f"--max-failed-share is {self._max_share:g}"
            raise _too_many(kinds, self._messages, failed, size, way)

    @property
    def warnings(self) -> list[str]:
        """The rows that are left out for good, by name."""
        refused = self.refused
        kinds = ", ".join(sorted(set(refused.values())))
        return [f"rows left out, as the provider always refuses them ({kinds}): {named(refused)}"] if refused else []


def refuse_unanswered(evaluation: Evaluation, least: int = 1) -> None:
    """Raise TaskError where no call of an evaluation of at least so many rows was answered: it has no mean."""
    if len(evaluation.items) >= least and not evaluation.values:
        kinds = Counter(item.error for item in evaluation.items if item.error is not None)
        messages = {item.error: item.error_message for item in reversed(evaluation.items) if item.error is not None}
        size = len(evaluation.items)
        raise _too_many(kinds, messages, size, size, "not one was answered")


def exceeds(failed: int, size: int, share: float) -> bool:
    """True where so many failures of so many calls would be too rare a piece of bad luck if `share` were the truth.

    That is: the lower end of the one-sided 95 % interval of C. Clopper and E. Pearson (1934) lies above the share.
    """
    if failed <= share * size:
        return False
    if share <= 0:
        return True
    terms = (
        math.lgamma(size + 1)
        - math.lgamma(k + 1)
        - math.lgamma(size - k + 1)
        + k * math.log(share)
        + (size - k) * math.log1p(-share)
        for k in range(failed, size + 1)
    )
    return math.fsum(map(math.exp, terms)) < SURE


def named(rows: Iterable[str]) -> str:
    """Some rows by their ids, the first few of many."""
    ids = list(rows)
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more


def _too_many(
    kinds: Counter[ErrorKind], messages: Mapping[ErrorKind, str], failed: int, size: int, why: str
) -> TaskError:
    kind = kinds.most_common(1)[0][0]
    return TaskError(kind, f"{failed} of {size} calls failed, most often: {messages[kind]} ({why})")
