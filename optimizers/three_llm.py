"""Three roles in a loop: a model answers, a metric grades, an optimizer model corrects the system and output prompts.

Source: "Prompt Engineering ML Platform" and its "Implementation Deep Dive". Differs: the first pair is scored before
any proposal, so that only an improvement is accepted; an epoch takes a batch of training rows and not all of them, and
validation a sample, so that a budget holds many epochs; of the batch the failures are shown worst first and spread over
the expected answers; after a rejection another batch is drawn and the last proposals that failed are shown with their
scores, else the same failures would give the same proposal; a reply that cannot be read is asked for again, not the
end; instructions are text and no template, so braces in them are harmless; a failed call is no
wrong answer; the two later strategies, only named there, are spelt out here. The split between training and validation
is the harness's, and metrics are the dataset's.

    best <- score(seed) on a sample of validation
    each epoch: score best on a batch of training rows; show both prompts, the mean and k failures (else k successes)
        y <- strategy: both prompts anew | a few exact edits | one failure more as a worked example
        score(y) on the sample; keep it if strictly better, else stop after `patience` such epochs in a row
        cycle: after an epoch without improvement the next strategy is taken
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import MAX_DUPLICATE_RETRIES, Ask, Editor, show_all, show_example, show_failure, tag
from optimizers.problem import Problem
from utils.errors import UsageError, unknown
from utils.prompt import Prompt, diff
from utils.records import Budget, Evaluation, Forecast, ItemScore, StopReason

MAX_EDITS = 3  # of one targeted_edit
MAX_SHOWN = 20  # failures from which example_addition chooses
REJECTED_SHOWN = 3
STRATEGIES = ("full_rewrite", "targeted_edit", "example_addition")
INSTRUCTIONS = {  # the parameter that holds a strategy's
    "full_rewrite": "instructions",
    "targeted_edit": "edit_instructions",
    "example_addition": "example_instructions",
}
SOURCE_KEYS = ("system_prompt", "output_prompt")  # of the source's own instructions: a reply has them where they do


@dataclass(frozen=True)
class ThreeLLM(Optimizer):
    """Correct the system and output prompts after each epoch's failures; rewrite, edit or add examples."""

    strategy: Literal["full_rewrite", "targeted_edit", "example_addition", "cycle"] = "cycle"
    max_epochs: int = 60
    batch_size: int = 10  # training rows an epoch; 0: all of them
    early_stopping_patience: int = 20  # epochs in a row without improvement
    examples_k: int = 5  # failures shown
    max_demos: int = 5  # worked examples in the prompt
    n_samples: int = 0  # validation rows a proposal is scored on; 0: as many as the budget bears
    early_stopping_metric: str = ""  # one of the task's: decides what an improvement is; empty: the objective
    # said to the optimizer model in place of our own, a text for each strategy: their replies have other forms
    instructions: str = ""  # full_rewrite
    edit_instructions: str = ""  # targeted_edit
    example_instructions: str = ""  # example_addition

    def __post_init__(self) -> None:
        self.refuse_below(max_epochs=1, batch_size=0, early_stopping_patience=1, examples_k=1, max_demos=1, n_samples=0)
        for strategy, name in INSTRUCTIONS.items():
            if getattr(self, name) and self.strategy not in (strategy, "cycle"):
                raise UsageError(f"{name} is for strategy {strategy}, not for {self.strategy}; leave one of them out")

    def check(self, metrics: Sequence[str]) -> None:
        if self.early_stopping_metric and self.early_stopping_metric not in metrics:
            raise unknown("early_stopping_metric of three_llm:", self.early_stopping_metric, metrics)

    @property
    def max_examples(self) -> int:
        """Worked examples that a prompt may show: for the estimate."""
        return 0 if self.strategy in ("full_rewrite", "targeted_edit") else self.max_demos

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        sample = problem.validation[: self._sample(len(problem.validation), problem.calls_left)]
        metric = "" if self.early_stopping_metric == problem.objective else self.early_stopping_metric
        best = problem.score(problem.seed, sample)
        history = History(problem, best, metric)
        turn = idle = 0
        for epoch in range(1, self.max_epochs + 1):
            strategy = STRATEGIES[turn % len(STRATEGIES)] if self.strategy == "cycle" else self.strategy
            batch = problem.score(best.prompt, problem.draw(self.batch_size or len(problem.train), rng))
            context = Context(self, problem, best, batch, history.rejected[-REJECTED_SHOWN:], idle)
            candidate, why = self._propose(strategy, editor, context)
            if candidate:
                trial = problem.score(candidate, sample)
                history.add(epoch, strategy, batch.mean, trial, best, why)
                if trial.mean_of(metric) > best.mean_of(metric):
                    best, idle = trial, 0
                    continue
            turn += 1
            idle += 1
            if idle >= self.early_stopping_patience:
                return StopReason.NO_IMPROVEMENT
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        sample = self._sample(extent.validation, budget.task_calls)
        batch = min(self.batch_size or extent.train, extent.train)
        most = sample + self.max_epochs * (batch + sample)
        # an epoch asks once, and again for a duplicate or to repair a reply: at most eight times
        return forecast(budget, (sample, most, most), (0, self.max_epochs, 8 * self.max_epochs))

    def _propose(self, strategy: str, editor: Editor, context: Context) -> tuple[Prompt | None, str]:
        """A valid prompt that was not scored before, with its reason, or None."""
        problem, best = context.problem, context.best.prompt
        if strategy == "example_addition" and not context.choosable:
            problem.log(strategy, "skip", "no_failures in the batch that were not tried as examples", parents=[best])
            return None, ""
        for _ in range(1 + MAX_DUPLICATE_RETRIES):
            reply = editor.ask(strategy, context.ask(strategy))
            if reply is None:
                continue
            candidate = context.read(strategy, reply)
            if candidate is None or not (candidate.id == best.id or problem.is_scored(candidate)):
                return editor.accept(strategy, best, candidate), str(reply["reasoning"])
            problem.log(strategy, "duplicate", "scored before", parents=[best], candidate=candidate)
        return editor.accept(strategy, best, None), ""

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)


@dataclass(frozen=True)
class Context:
    """What one epoch knows: how its question is put, and how the reply becomes a prompt."""

    params: ThreeLLM
    problem: Problem
    best: Evaluation  # on validation: only its mean is told
    batch: Evaluation  # on training rows
    rejected: Sequence[Evaluation]
    idle: int  # epochs since the last improvement

    def ask(self, strategy: str) -> Ask:
        """The question of a strategy, with all evidence of the epoch."""
        instruction, schema = TEXTS[strategy]
        others = {name: self.batch.mean_of(name) for item in self.batch.items[:1] for name in item.also}
        means = {self.problem.objective: self.batch.mean, **others}
        metrics = ", ".join(f"{name}: {mean:.3f}" for name, mean in means.items())
        metrics += f" on a training batch of {len(self.batch.values)}"
        parts = [
            _show_pair(self.best.prompt, self.best.mean),
            tag("metrics", metrics),
            *([tag("template", self.best.prompt.user)] if self.best.prompt.user else []),
            *self._cases(strategy),
            *([TRIED, *(_show_pair(trial.prompt, trial.mean) for trial in self.rejected)] if self.rejected else []),
        ]
        own = getattr(self.params, INSTRUCTIONS[strategy])
        if strategy == "full_rewrite" and all(f'"{name}"' in own for name in SOURCE_KEYS):
            schema = _object(dict.fromkeys((*SOURCE_KEYS, "reasoning"), TEXT))
        return Ask(own or instruction, show_all(parts), schema)

    def read(self, strategy: str, reply: Mapping[str, Any]) -> Prompt | None:
        """The prompt that a reply comes to, if any."""
        readers = {
            "full_rewrite": self._rewritten,
            "targeted_edit": self._edited,
            "example_addition": self._extended,
        }
        return readers[strategy](reply)

    @property
    def failures(self) -> list[ItemScore]:
        """Worst first, and every expected answer in turn."""
        seen: Counter[str] = Counter()
        ranked = []
        for item in self.batch.failures():
            target = self.problem.find(item.example_id).target
            ranked.append((item.score.value if item.score else 0.0, seen[target], item))
            seen[target] += 1
        return [item for *_, item in sorted(ranked, key=lambda row: row[:2])]  # stable

    @property
    def choosable(self) -> list[ItemScore]:
        """Failures that could become a worked example, and were not tried as one."""
        demos = {demo.example_id for demo in self.best.prompt.demos}
        fresh = [item for item in self.failures if item.example_id not in demos]
        return [item for item in fresh if not self.problem.is_scored(self._with(item))][:MAX_SHOWN]

    def _cases(self, strategy: str) -> list[str]:
        if strategy == "example_addition":
            return [_numbered(n, self._show(item)) for n, item in enumerate(self.choosable, 1)]
        k, failures = self.params.examples_k, self.failures
        if not failures:
            right = [self.problem.find(item.example_id) for item in self.batch.items[:k]]
            return [ALL_RIGHT, *map(show_example, right)]
        # all rows are asked again only where the batch is all of training: then others are shown each time
        start = k * self.idle % len(failures) if len(self.batch.items) == len(self.problem.train) else 0
        return [self._show(item) for item in (*failures[start:], *failures[:start])[:k]]

    def _show(self, item: ItemScore) -> str:
        return show_failure(self.problem.find(item.example_id), item)

    def _rewritten(self, reply: Mapping[str, Any]) -> Prompt | None:
        keys = SOURCE_KEYS if SOURCE_KEYS[0] in reply else ("system", "output")
        system, output = (_plain(reply[name]).strip() for name in keys)
        return replace(self.best.prompt, system=system, output=output)

    def _edited(self, reply: Mapping[str, Any]) -> Prompt | None:
        texts = {"system": self.best.prompt.system, "output": self.best.prompt.output}
        applied = 0
        for edit in reply["edits"][:MAX_EDITS]:
            target, op, find, text = (_plain(edit[name]) for name in ("target", "op", "find", "text"))
            old = texts[target]
            if old.count(find) != 1:
                why = f"stands {old.count(find)} times in {target}, not once: {find[:80]!r}"
                self.problem.log("targeted_edit", "skip", why, parents=[self.best.prompt])
                continue
            texts[target] = _apply(old, op, find, text)
            applied += 1
        return replace(self.best.prompt, system=texts["system"], output=texts["output"]) if applied else None

    def _extended(self, reply: Mapping[str, Any]) -> Prompt | None:
        rows = dict(enumerate(self.choosable, 1))
        chosen = next((rows[n] for n in reply["example_ids"] if n in rows), None)
        if chosen is None:
            self.problem.log("example_addition", "skip", "none of the failures shown", parents=[self.best.prompt])
            return None
        return self._with(chosen)

    def _with(self, item: ItemScore) -> Prompt:
        demos = [*self.best.prompt.demos, self.problem.demo(self.problem.find(item.example_id))]
        return self.best.prompt.with_demos(demos[-self.params.max_demos :])  # the oldest makes room


class History:
    """Every version of the prompts with its reason and what it changed, reported as it grows."""

    def __init__(self, problem: Problem, first: Evaluation, metric: str) -> None:
        self.problem = problem
        self.metric = metric  # by which a version is better; empty: the objective
        self.rejected: list[Evaluation] = []
        self.versions: list[dict[str, object]] = []
        self._note(0, "seed", first, accepted=True, why="the first version", diff="")

    def add(self, epoch: int, strategy: str, train: float, trial: Evaluation, best: Evaluation, why: str) -> None:
        """A proposal that was scored, with the incumbent that it had to beat."""
        new, old = trial.mean_of(self.metric), best.mean_of(self.metric)
        accepted = new > old
        self.rejected += [] if accepted else [trial]
        self.problem.log(
            strategy,
            "accept" if accepted else "reject",
            f"{new:.3f} against {old:.3f} on validation: {why}",
            parents=[best.prompt],
            candidate=trial.prompt,
            numbers={"candidate": new, "best": old, "train": train},
        )
        self._note(epoch, strategy, trial, accepted=accepted, why=why, diff=diff(best.prompt, trial.prompt))

    def _note(self, epoch: int, strategy: str, trial: Evaluation, *, accepted: bool, why: str, diff: str) -> None:
        self.versions.append(
            {
                "epoch": epoch,
                "strategy": strategy,
                "prompt": trial.prompt.id,
                "validation": trial.mean_of(self.metric),
                "accepted": accepted,
                "reason": why,
                "diff": diff,
            }
        )
        self.problem.report("versions", list(self.versions))


def _apply(text: str, op: str, find: str, new: str) -> str:
    """The text after one edit at `find`; what is inserted stands apart from it, and no other byte changes."""
    at = text.index(find)
    changed = {
        "replace": new,
        "delete": "",
        "insert_before": new + _gap(new, find) + find,
        "insert_after": find + _gap(find, new) + new,
    }
    return text[:at] + changed[op] + text[at + len(find) :]


def _gap(left: str, right: str) -> str:
    return " " if left and right and not left[-1].isspace() and not right[0].isspace() else ""


def _plain(text: str) -> str:
    """A text as it was before it was quoted between tags."""
    return text.replace("<\\/", "</")


def _show_pair(prompt: Prompt, score: float) -> str:
    parts = [tag("system", prompt.system), tag("output", prompt.output)]
    return "\n".join([f'<prompt score="{score:.3f}">', *parts, "</prompt>"])


def _numbered(number: int, failure: str) -> str:
    return failure.replace("<failure>", f'<failure id="{number}">', 1)


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
EDIT = _object(
    {
        "target": {"type": "string", "enum": ["system", "output"]},
        "op": {"type": "string", "enum": ["replace", "insert_before", "insert_after", "delete"]},
        "find": TEXT,
        "text": TEXT,
        "why": TEXT,
    }
)

FULL_REWRITE = """\
A task model reads the system prompt below, then an input, then the output prompt. The prompt's score is its mean on
rows that you do not see; the failures are rows on which it went wrong. Find what the failures have in common, then
write both prompts anew, so that they say what was missing: the system prompt how to work, the output prompt what the
answer looks like. `reasoning` says in a sentence or two what you changed and which failures that prevents."""

TARGETED_EDIT = f"""\
A task model reads the system prompt below, then an input, then the output prompt. The prompt's score is its mean on
rows that you do not see; the failures are rows on which it went wrong. Mend the passages that are to blame, with at
most {MAX_EDITS} edits, and touch nothing else. `target` names the prompt. `find` is a passage that stands in it exactly
once, copied to the letter: it is replaced by `text`, or deleted, or `text` goes before or after it. Where the prompt is
empty, `find` is empty. `why` and `reasoning` say in a sentence what an edit, and all of them, should prevent."""

EXAMPLE_ADDITION = """\
A task model reads the prompt below, with some worked examples. The failures are rows on which it went wrong; one of
them will be added to the prompt as a worked example, with its expected answer. Choose the one from which most can be
learned about the others: give its id in `example_ids`, and say in `reasoning` what it teaches."""

ALL_RIGHT = "No row of this batch went wrong. These went right; make the prompt clearer without losing them."
TRIED = "Tried before, and no better on the same rows; do not repeat these:"

TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "full_rewrite": (FULL_REWRITE, _object({"system": TEXT, "output": TEXT, "reasoning": TEXT})),
    "targeted_edit": (TARGETED_EDIT, _object({"edits": {"type": "array", "items": EDIT}, "reasoning": TEXT})),
    "example_addition": (
        EXAMPLE_ADDITION,
        _object({"example_ids": {"type": "array", "items": {"type": "integer"}}, "reasoning": TEXT}),
    ),
}
