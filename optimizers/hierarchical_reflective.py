"""Hierarchical reflection: failures are analysed in batches, merged into failure modes, and treated one mode at a time.

Source: the Hierarchical Reflective Prompt Optimizer (HRPO) of the opik-optimizer package, version 3. Differs: only
failed rows are analysed, not all; a mode ranks by the rows that it explains, counted here, and is passed over once they
are right; a candidate must hold on a few training rows before validation is spent on it; samples fit the budget, which
takes the place of `max_trials`; a lost batch costs its evidence, not the run; without a reason from the metric the
expected and the given answer stand for it; an iteration without gain goes on to other rows, and `patience` of them in a
row are convergence.

    best <- score(seed) on a sample of validation
    repeat: trial <- score(best) on a sample of training rows, with reasons; failed <- its failures
            for each batch of failed, in parallel: modes += analyse(batch): name, description, root cause, rows
            with more than one batch: modes <- synthesis(modes): merged across batches
            for each mode, most rows first: up to 1 + max_retries times:
                x <- edit best for this mode alone; worse than best on a few of the training rows: rejected;
                better than best on the sample: best <- x, next mode
    until `patience` iterations in a row gain less than convergence_threshold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import MAX_BARREN_STEPS, Ask, Editor, show_all, show_failure, show_prompt, tag
from optimizers.problem import Problem
from utils.prompt import Prompt
from utils.records import Budget, Evaluation, Example, Forecast, ItemScore, StopReason

Row = dict[str, object]  # of the report


@dataclass(frozen=True)
class Mode:
    """A kind of failure: `rows` are the training examples that show it."""

    name: str
    description: str
    root_cause: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class HierarchicalReflective(Optimizer):
    """Sort failures into modes by their root cause, and treat one mode after the other."""

    batch_size: int = 25  # failures that one analysis reads
    max_parallel_batches: int = 5  # analyses at once
    max_iterations: int = 5
    max_retries: int = 2  # further attempts at a mode after the first
    convergence_threshold: float = 0.01  # relative gain of an iteration below which it counts as none
    patience: int = 2  # iterations in a row without gain that end the search
    max_modes: int = 8  # treated in an iteration
    gate_size: int = 8  # training rows on which a candidate must not be worse first; 0: no gate
    failures_shown: int = 5  # of a mode, to whoever edits
    n_train: int = 0  # training rows of an iteration; 0: as many as the budget bears
    n_samples: int = 0  # validation rows a candidate is scored on; 0: as many as the budget bears

    def __post_init__(self) -> None:
        self.refuse_below(
            batch_size=1,
            max_parallel_batches=1,
            max_iterations=1,
            max_retries=0,
            convergence_threshold=0,
            patience=1,
            max_modes=1,
            gate_size=0,
            failures_shown=1,
            n_train=0,
            n_samples=0,
        )

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        size = self._size(self.n_train, len(problem.train), problem.calls_left)
        sample = problem.validation[: self._size(self.n_samples, len(problem.validation), problem.calls_left)]
        best = problem.score(problem.seed, sample)
        treated: list[Row] = []
        problem.report("failure_modes", treated)
        faultless = barren = 0  # training rows in a row without a failure; iterations in a row without gain
        for iteration in range(1, self.max_iterations + 1):
            before = best.mean
            batch = problem.draw(size, rng)
            failed = problem.score(best.prompt, batch).failures()
            if not failed:
                problem.log("analyse", "skip", f"no_failures in {len(batch)} training rows", parents=[best.prompt])
                faultless += len(batch)
                if faultless >= len(problem.train):
                    return StopReason.TARGET_REACHED
                continue
            faultless = 0
            modes = self._modes(problem, editor, best.prompt, failed)
            while not modes:  # nothing that can be read is no finding; the editor says when it is enough
                modes = self._modes(problem, editor, best.prompt, failed)
            for mode in modes:
                best, attempts, accepted = self._treat(problem, editor, rng, best, mode, batch, sample)
                row: Row = {"iteration": iteration, "mode": mode.name, "root_cause": mode.root_cause}
                treated.append({**row, "rows": list(mode.rows), "attempts": attempts, "accepted": accepted})
            gain = best.mean - before
            barren = barren + 1 if gain <= self.convergence_threshold * before else 0
            if barren >= self.patience:
                return StopReason.CONVERGED
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        train = self._size(self.n_train, extent.train, budget.task_calls)
        sample = self._size(self.n_samples, extent.validation, budget.task_calls)
        tries = self.max_modes * (1 + self.max_retries)
        # a mode's incumbent is scored on its cases, and again on the gates
        treatment = self.failures_shown + (1 + self.max_retries) * (2 * self.gate_size + sample)
        most = sample + self.max_iterations * (train + self.max_modes * treatment)
        analyses = -(-train // self.batch_size) + 1
        asks = self.max_iterations * (analyses + tries)
        # each ask may need a repair; an analysis is asked again where nothing comes of it, an edit for a duplicate
        most_asks = self.max_iterations * (2 * analyses * MAX_BARREN_STEPS + 8 * tries)
        return forecast(budget, (sample, most, most), (0, asks, most_asks))

    def _modes(self, problem: Problem, editor: Editor, prompt: Prompt, failed: Sequence[ItemScore]) -> list[Mode]:
        """The failure modes behind these failures, the one with most rows first."""
        batches = [failed[i : i + self.batch_size] for i in range(0, len(failed), self.batch_size)]
        found: list[list[Mode]] = []
        for i in range(0, len(batches), self.max_parallel_batches):
            together = batches[i : i + self.max_parallel_batches]
            asks = [Ask(ANALYSE, f"{show_prompt(prompt)}\n\n{_numbered(problem, batch)}", MODES) for batch in together]
            replies = editor.ask_all("analyse", asks)
            found += [_read(reply, batch) for reply, batch in zip(replies, together, strict=True)]
        modes = [mode for batch in found for mode in batch]
        if sum(map(bool, found)) > 1:
            modes = _merged(modes, editor.ask("synthesise", Ask(SYNTHESISE, _listed(modes), MERGED)))
        ranked = sorted(modes, key=lambda mode: -len(mode.rows))[: self.max_modes]  # stable: of equals the earlier
        if ranked:
            counts = ", ".join(f"{mode.name} ({len(mode.rows)})" for mode in ranked)
            reason = f"{len(failed)} failures in {len(batches)} batches: {counts}"
            problem.log("analyse", "accept", reason, parents=[prompt], numbers={"failures": len(failed)})
        else:
            editor.accept("analyse", prompt, None)  # nothing came of it: a barren step
        return ranked

    def _treat(
        self,
        problem: Problem,
        editor: Editor,
        rng: Random,
        best: Evaluation,
        mode: Mode,
        batch: Sequence[Example],
        sample: Sequence[Example],
    ) -> tuple[Evaluation, int, bool]:
        """Best after up to 1 + max_retries attempts at one mode, their number, and whether one was accepted."""
        cases = problem.score(best.prompt, [problem.find(name) for name in mode.rows[: self.failures_shown]]).failures()
        if not cases:  # what was accepted for an earlier mode was good for this one too
            problem.log("treat", "skip", f"no failure of {mode.name!r} is left", parents=[best.prompt])
            return best, 0, False
        data = f"{_show(mode)}\n\n{show_all(_case(problem, item) for item in cases)}"
        for attempt in range(1, 2 + self.max_retries):
            # asked again, the editor draws anew
            candidate = editor.rewrite("treat", best.prompt, TREAT, data=data, score=best.mean)
            if candidate is None:
                continue
            what = f"attempt {attempt} at {mode.name!r}"
            if self.gate_size:
                gate = rng.sample(batch, min(self.gate_size, len(batch)))  # best was scored on most of it
                old, new = problem.score(best.prompt, gate), problem.score(candidate, gate)
                if new.mean < old.mean:
                    _log(problem, candidate, new, old, f"{what}, on {len(gate)} training rows", "reject")
                    continue
            trial = problem.score(candidate, sample)
            accepted = trial.mean > best.mean
            _log(problem, candidate, trial, best, f"{what}, on validation", "accept" if accepted else "reject")
            if accepted:
                return trial, attempt, True
        return best, 1 + self.max_retries, False

    def _size(self, asked: int, rows: int, calls: int) -> int:
        return min(asked, rows) if asked else sample_size(rows, calls)


def _read(reply: Mapping[str, Any] | None, batch: Sequence[ItemScore]) -> list[Mode]:
    """The modes of one analysis; a mode that names none of the failures shown is dropped."""
    modes = []
    for said in reply["failure_modes"] if reply else ():
        numbers = dict.fromkeys(number for number in said["item_ids"] if 1 <= number <= len(batch))
        if numbers:
            rows = tuple(batch[number - 1].example_id for number in numbers)
            modes.append(Mode(said["name"], said["description"], said["root_cause"], rows))
    return modes


def _merged(modes: Sequence[Mode], reply: Mapping[str, Any] | None) -> list[Mode]:
    """The modes as a synthesis merges them; one that it names twice counts once, one that it forgets stays itself."""
    left = dict(enumerate(modes, start=1))
    merged = []
    for said in reply["failure_modes"] if reply else ():
        parts = [left.pop(number) for number in said["mode_ids"] if number in left]
        if parts:
            rows = tuple(dict.fromkeys(row for part in parts for row in part.rows))
            merged.append(Mode(said["name"], said["description"], said["root_cause"], rows))
    return [*merged, *left.values()]


def _numbered(problem: Problem, batch: Sequence[ItemScore]) -> str:
    """Failures with numbers to name them by."""
    cases = (_case(problem, item).removeprefix("<failure>") for item in batch)
    return show_all(f'<failure id="{number}">{case}' for number, case in enumerate(cases, start=1))


def _case(problem: Problem, item: ItemScore) -> str:
    """A failure; where the metric gave no reason, what was expected and what came stands for it."""
    example = problem.find(item.example_id)
    assert item.score is not None
    if not item.score.reason:
        reason = f"expected {example.target!r}, got {(item.answer or '')[:200]!r}"
        item = replace(item, score=replace(item.score, reason=reason))
    return show_failure(example, item)


def _listed(modes: Sequence[Mode]) -> str:
    return show_all(_show(mode).replace("<mode", f'<mode id="{n}"', 1) for n, mode in enumerate(modes, start=1))


def _show(mode: Mode) -> str:
    parts = [tag("name", mode.name), tag("description", mode.description), tag("root_cause", mode.root_cause)]
    return "\n".join([f'<mode failures="{len(mode.rows)}">', *parts, "</mode>"])


def _log(problem: Problem, candidate: Prompt, new: Evaluation, old: Evaluation, where: str, decision: str) -> None:
    problem.log(
        "treat",
        decision,
        f"{where}: {new.mean:.3f} against {old.mean:.3f}",
        parents=[old.prompt],
        candidate=candidate,
        numbers={"candidate": new.mean, "incumbent": old.mean},
    )


def _form(ids: str) -> dict[str, Any]:
    texts: dict[str, Any] = {name: {"type": "string"} for name in ("name", "description", "root_cause")}
    properties = {**texts, ids: {"type": "array", "items": {"type": "integer"}}}
    mode = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"failure_modes": {"type": "array", "items": mode}},
        "required": ["failure_modes"],
        "additionalProperties": False,
    }


MODES = _form("item_ids")
MERGED = _form("mode_ids")

ANALYSE = """\
A model that was given the prompt below failed on the cases after it. Sort these failures by what caused them.
Name each kind once: `name` in a few words, `description` of what goes wrong, `root_cause`: what the prompt says or
fails to say that lets it happen, `item_ids`: the numbers of the failures that show it. Conclude from these cases only;
a kind that no case shows does not belong in the list. The kind with most failures comes first."""

SYNTHESISE = """\
Several readers sorted different failures of one prompt; below is everything that they found. The same cause may stand
there several times in other words. Merge what has the same cause, and keep apart what has not. For each kind that is
left give `name`, `description`, `root_cause` and `mode_ids`: the numbers of all entries that it stands for."""

TREAT = """\
The prompt below fails in one particular way, which is described after it with some of the cases. Change the prompt so
that its root cause is gone. Operate on as little as you can: what does not bear on this cause stays word for word, and
nothing that the prompt asks for now is lost. Say what to do in general; do not speak of single cases."""
