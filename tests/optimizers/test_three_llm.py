"""three_llm: proposals are accepted on validation alone, each strategy changes what it may and nothing else."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmark_config import Settings
from benchmark_task import build_optimizer, expand, parse_optimizer
from optimizers.editor import EDITOR, Editor
from optimizers.problem import Problem
from optimizers.three_llm import ThreeLLM
from tests.models import Scripted
from utils.door import Door
from utils.errors import OptimizerFailed, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.llm.simulated import calibration, simulated_model
from utils.metrics.exact_match import ExactMatch
from utils.metrics.option_letter import OptionLetter
from utils.prompt import Prompt
from utils.records import Budget, Example, Request, Role, Score, Step, StopReason

SEED = Prompt(system="Answer. Be kind.", user="{question}", output="Say yes or no.")


def rows(split: str, count: int, targets: tuple[str, ...] = ("yes",)) -> list[Example]:
    return [
        Example(f"{split}{i}", {"question": f"{split} question {i} {{brace}}"}, targets[i % len(targets)])
        for i in range(count)
    ]


class Setting:
    """A problem of 10 rows a split. `replies` are what the editor says, one after the other; the last one stays.

    A prompt gets as many of ten rows right as the greatest `+n` in it says, else 2; one more for each worked example.
    """

    def __init__(self, *replies: object, seed: Prompt = SEED, targets: tuple[str, ...] = ("yes",)) -> None:
        self.replies = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
        self.model = Scripted(self.answer)
        self.door = Door(
            {Role.TASK: self.model, Role.OPTIMIZER: self.model}, Journal(lambda line: None), Ledger(Budget(2000))
        )
        self.problem = Problem(seed, rows("train", 10, targets), rows("val", 10), [ExactMatch()], self.door)
        self.editor = Editor(self.door, self.problem, seed=1)
        self.stopped: StopReason | None = None

    def answer(self, request: Request, count: int) -> str:
        if request.schema is not None:
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        text = "\n".join(message.content for message in request.messages)
        known = next((n for n in range(10, 0, -1) if f"+{n}." in text), 2) + text.count("Answer: yes")
        number = int(request.item.removeprefix("val").removeprefix("train"))
        return "yes" if number < known else "no"

    def optimize(self, **params: Any) -> list[Step]:
        try:
            self.stopped = ThreeLLM(**{"strategy": "full_rewrite", **params}).optimize(
                self.problem, self.editor, Random(1)
            )
        except OptimizerFailed as stop:
            self.stopped = StopReason(stop.reason)
        finally:
            self.door.close()
        return self.problem.steps

    @property
    def questions(self) -> list[str]:
        """What the optimizer model was asked."""
        return [request.messages[1].content for request in self.model.requests if request.schema is not None]

    @property
    def accepted(self) -> list[Prompt]:
        return [step.candidate for step in self.problem.steps if step.decision == "accept" and step.candidate]


def pair(level: int, number: int = 0) -> dict[str, str]:
    return {"system": f"Answer number {number} +{level}.", "output": "Say it.", "reasoning": f"because {level}"}


WORSE = [pair(3, number) for number in range(20)]


def test_two_improvements_then_none_ends_after_the_patience() -> None:
    setting = Setting(pair(4), pair(6), *WORSE)
    setting.optimize(early_stopping_patience=3, max_epochs=10)
    assert [prompt.system for prompt in setting.accepted] == ["Answer number 0 +4.", "Answer number 0 +6."]
    assert setting.stopped is StopReason.NO_IMPROVEMENT
    assert setting.problem.reported["versions"][-1]["epoch"] == 2 + 3
    assert setting.problem.finalists(1)[1] == setting.accepted[-1]


def test_a_reply_that_cannot_be_read_is_asked_for_again() -> None:
    setting = Setting(pair(4), "no JSON", "nor now", pair(6), *WORSE)
    steps = setting.optimize(early_stopping_patience=3)
    assert [step.decision for step in steps] == ["accept", "malformed", "accept", "reject", "reject", "reject"]
    assert setting.problem.reported["versions"][2]["epoch"] == 2


def test_the_first_proposal_must_beat_the_seed_pair() -> None:
    setting = Setting(pair(1), *WORSE)
    steps = setting.optimize(early_stopping_patience=1)
    assert [step.decision for step in steps] == ["reject"]


def test_a_tie_keeps_the_incumbent() -> None:
    setting = Setting(pair(2))
    assert [step.decision for step in setting.optimize(early_stopping_patience=1)] == ["reject"]


def test_rejected_proposals_are_shown_with_their_scores_three_at_most() -> None:
    setting = Setting(*[pair(1, number) for number in range(6)])
    setting.optimize(early_stopping_patience=6)
    shown = [[n for n in range(6) if f"Answer number {n} +1." in question] for question in setting.questions]
    assert shown == [[], [0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert '<prompt score="0.100">' in setting.questions[-1]


def test_failures_are_shown_and_no_more_than_k() -> None:
    setting = Setting(*WORSE)
    setting.optimize(early_stopping_patience=1, examples_k=3, batch_size=0)
    assert setting.questions[0].count("<failure>") == 3
    assert "<answer>\nno\n</answer>" in setting.questions[0]


def test_the_failures_shown_are_spread_over_the_expected_answers() -> None:
    setting = Setting(*WORSE, targets=("a", "a", "a", "a", "b"))
    setting.optimize(early_stopping_patience=1, examples_k=2, batch_size=0)
    assert setting.questions[0].count("<expected>\na\n") == setting.questions[0].count("<expected>\nb\n") == 1


def test_other_failures_are_shown_when_the_batch_stays_the_same() -> None:
    setting = Setting(*[pair(1, number) for number in range(2)])
    setting.optimize(early_stopping_patience=2, examples_k=4, batch_size=0)
    assert len(set(setting.questions)) == 2


def test_without_a_failure_rows_that_went_right_are_shown_as_such() -> None:
    setting = Setting(pair(1), seed=replace(SEED, system="Answer +10."))
    setting.optimize(early_stopping_patience=1, examples_k=3)
    assert "No row of this batch went wrong" in setting.questions[0]
    assert setting.questions[0].count("<example>") == 3


def test_training_rows_of_an_unchanged_incumbent_are_paid_once() -> None:
    setting = Setting(*[pair(1, number) for number in range(4)])
    setting.optimize(early_stopping_patience=4, batch_size=0)
    assert setting.door.ledger.logical.task_calls == 10 + 10 + 4 * 10  # seed on both splits, proposals on validation


def edit(target: str, op: str, find: str, text: str = "") -> dict[str, str]:
    return {"target": target, "op": op, "find": find, "text": text, "why": "it was missing"}


def edited(*edits: dict[str, str], seed: Prompt = SEED) -> tuple[list[Prompt], list[Step]]:
    setting = Setting({"edits": list(edits), "reasoning": "r"}, seed=seed)
    steps = setting.optimize(strategy="targeted_edit", max_epochs=1)
    return setting.accepted, steps


@pytest.mark.parametrize(
    ("change", "system", "output"),
    [
        (edit("system", "replace", "Be kind.", "Count +5."), "Answer. Count +5.", "Say yes or no."),
        (edit("system", "insert_after", "Answer.", "Count +5."), "Answer. Count +5. Be kind.", "Say yes or no."),
        (edit("system", "insert_before", "Be kind.", "Count +5."), "Answer. Count +5. Be kind.", "Say yes or no."),
        (edit("output", "insert_after", "Say yes or no.", "+5."), "Answer. Be kind.", "Say yes or no. +5."),
    ],
)
def test_a_targeted_edit_leaves_every_other_byte_as_it_was(change: dict[str, str], system: str, output: str) -> None:
    accepted, _ = edited(change)
    assert accepted == [replace(SEED, system=system, output=output)]


def test_a_passage_can_be_deleted() -> None:
    accepted, _ = edited(edit("system", "delete", " Be kind."), edit("output", "replace", "yes or no", "+5"))
    assert accepted == [replace(SEED, system="Answer.", output="Say +5.")]


def test_an_edit_whose_place_is_not_there_once_is_dropped_and_logged() -> None:
    seed = replace(SEED, system="Be kind. Be kind.")
    wrong = edit("system", "replace", "Be kind.", "+9."), edit("output", "replace", "Shout.", "+9.")
    accepted, steps = edited(*wrong, edit("output", "replace", "Say yes or no.", "Say +5."), seed=seed)
    assert accepted == [replace(seed, output="Say +5.")]
    assert [step.reason[:14] for step in steps if step.decision == "skip"] == ["stands 2 times", "stands 0 times"]


def test_edits_that_all_miss_are_no_proposal() -> None:
    accepted, steps = edited(edit("system", "replace", "nowhere", "+9."))
    assert not accepted
    assert [step.decision for step in steps] == ["skip"]


def test_an_empty_prompt_takes_an_insertion() -> None:
    accepted, _ = edited(edit("output", "insert_after", "", "Say +5."), seed=replace(SEED, output=""))
    assert accepted == [replace(SEED, output="Say +5.")]


def test_no_more_than_three_edits_are_applied() -> None:
    seed = replace(SEED, system="A B C D")
    accepted, _ = edited(
        *(edit("system", "replace", letter, f"+{n}.") for n, letter in enumerate("ABCD", 5)), seed=seed
    )
    assert accepted == [replace(seed, system="+5. +6. +7. D")]


def test_an_added_example_is_a_training_row_and_leaves_both_texts_alone() -> None:
    setting = Setting({"example_ids": [1], "reasoning": "r"})
    setting.optimize(strategy="example_addition", max_epochs=2)
    first, second = setting.accepted
    assert (first.system, first.output) == (second.system, second.output) == (SEED.system, SEED.output)
    assert second.demos[:1] == first.demos
    assert len({demo.example_id for demo in second.demos}) == 2
    assert all(demo.example_id.startswith("train") and demo.target == "yes" for demo in second.demos)


def test_the_oldest_example_makes_room() -> None:
    setting = Setting({"example_ids": [1], "reasoning": "r"})
    setting.optimize(strategy="example_addition", max_epochs=12, max_demos=2, batch_size=0, early_stopping_patience=12)
    demos = [step.candidate.demos for step in setting.problem.steps if step.candidate]
    assert max(map(len, demos)) == 2
    assert demos[2][0] == demos[1][1]


@pytest.mark.parametrize("ids", [[], [99], [0]])
def test_an_example_that_was_not_shown_is_no_proposal(ids: list[int]) -> None:
    setting = Setting({"example_ids": ids, "reasoning": "r"})
    setting.optimize(strategy="example_addition", max_epochs=1)
    assert not setting.accepted


def test_no_example_is_asked_for_where_nothing_went_wrong() -> None:
    setting = Setting({"example_ids": [1], "reasoning": "r"}, seed=replace(SEED, system="Answer +10."))
    setting.optimize(strategy="example_addition", early_stopping_patience=4)
    assert setting.questions == []
    assert setting.stopped is StopReason.NO_IMPROVEMENT


def test_cycle_keeps_a_strategy_that_was_accepted_and_else_takes_the_next() -> None:
    failed = {"edits": [edit("system", "replace", "nowhere", "")], "reasoning": "r"}
    setting = Setting(pair(3), pair(1), failed, {"example_ids": [1], "reasoning": "r"})
    setting.optimize(strategy="cycle", max_epochs=4)
    operators = [step.operator for step in setting.problem.steps]
    assert operators == ["full_rewrite", "full_rewrite", "targeted_edit", "example_addition"]


def test_versions_tell_reason_and_difference() -> None:
    setting = Setting(pair(4), pair(1))
    setting.optimize(max_epochs=2)
    first, second, third = setting.problem.reported["versions"]
    assert (first["epoch"], first["diff"]) == (0, "")
    assert (second["accepted"], second["reason"]) == (True, "because 4")
    assert {"-Answer. Be kind.", "+Answer number 0 +4.", "+Say it."} <= set(second["diff"].splitlines())
    assert (third["accepted"], third["validation"]) == (False, 0.1)


def test_a_proposal_that_was_scored_is_asked_for_again_three_times_at_most() -> None:
    setting = Setting(pair(4))
    steps = setting.optimize(max_epochs=2)
    assert [step.decision for step in steps] == ["accept", *["duplicate"] * 4]


# --------------------------------------------------------------------------- instructions of one's own

OWN = 'Mend this. Reply like {"system": "...", "output": "{x}"}, and mind {current_system_prompt}.'


def test_own_instructions_stand_in_place_of_ours_braces_and_all() -> None:
    setting = Setting(pair(4))
    setting.optimize(max_epochs=1, instructions=OWN)
    assert setting.questions[0].startswith(OWN)
    assert setting.model.requests[-11].messages[0].content == EDITOR


def test_an_at_sign_names_a_file_and_the_plan_holds_its_text(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text(f"{OWN}\nSecond line, with commas.\n", encoding="utf-8")
    grid = Settings(("gsm8k",), (f"three_llm:instructions=@{file},max_epochs=4",), ("sim/standard",), data="sample")
    (spec,) = expand(grid)
    file.unlink()
    optimizer = build_optimizer(spec)
    assert isinstance(optimizer, ThreeLLM)
    assert (optimizer.instructions, optimizer.max_epochs) == (f"{OWN}\nSecond line, with commas.", 4)
    assert len(spec.optimizer_label) < 100
    assert "\n" not in spec.optimizer_label


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "cannot read"), (b"\xff\xfe", "cannot read"), (b" ", "is empty")]
)
def test_a_file_that_gives_no_text_is_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "own.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=f"three_llm: instructions: .*{complaint}"):
        parse_optimizer(f"three_llm:instructions=@{file}")


def test_a_file_for_a_number_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("many", encoding="utf-8")
    with pytest.raises(UsageError, match="max_epochs"):
        parse_optimizer(f"three_llm:max_epochs=@{file}")


def test_a_text_from_a_file_is_shown_by_the_file(tmp_path: Path) -> None:
    cells = []
    for folder, text in (("a", "Rewrite it."), ("b", "Rewrite it all.")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.txt").write_text(text, encoding="utf-8")
        words = (f"three_llm:instructions=@{tmp_path / folder / 'own.txt'}",)
        (task,) = expand(Settings(("gsm8k",), words, ("sim/standard",), data="sample"))
        assert task.optimizer_params == {"instructions": text}
        assert task.optimizer_label.startswith("three_llm:instructions=@own.txt#")
        assert text not in task.optimizer_label
        cells.append(task)
    assert cells[0].optimizer_label.partition("#")[2] != cells[1].optimizer_label.partition("#")[2]
    assert replace(cells[0], optimizer_files={}).task_id == cells[0].task_id, "where a text lies decides nothing"


@pytest.mark.parametrize(
    "wrong",
    [{"max_epochs": 0}, {"batch_size": -1}, {"early_stopping_patience": 0}, {"examples_k": 0}, {"max_demos": 0}],
)
def test_impossible_parameters_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ThreeLLM(**wrong)


# --------------------------------------------------------------------------- the source's own words

SOURCE = """\
You are a prompt engineering expert. Your task is to analyze the performance of a language model on specific examples.

Your response MUST follow this JSON format:
{
  "system_prompt": "your revised system prompt here",
  "output_prompt": "your revised output prompt here",
  "reasoning": "detailed explanation of your changes and how they address the failures"
}"""


def test_the_sources_own_instructions_are_answered_in_the_sources_form() -> None:
    setting = Setting({"system_prompt": "Answer +7.", "output_prompt": "Say it.", "reasoning": "because"})
    setting.optimize(max_epochs=1, instructions=SOURCE)
    (accepted,) = setting.accepted
    assert (accepted.system, accepted.output) == ("Answer +7.", "Say it.")
    asked = next(request for request in setting.model.requests if request.schema)
    assert list(asked.schema["properties"]) == ["system_prompt", "output_prompt", "reasoning"]
    assert "repair" not in "".join(setting.questions[1:])
    assert len(setting.questions) == 1


def test_a_simulated_editor_answers_in_the_sources_form() -> None:
    rows_ = calibration.examples(60)
    model = simulated_model("sim/standard", {"malformed": 0.0}, rows_)
    door = Door({Role.TASK: model, Role.OPTIMIZER: model}, Journal(lambda line: None), Ledger(Budget(300)))
    start = Prompt(system="Answer the question.", user="{question}")
    problem = Problem(start, rows_[:30], rows_[30:], [OptionLetter()], door)
    with closing(door):
        ThreeLLM(strategy="full_rewrite", max_epochs=6, instructions=SOURCE).optimize(
            problem, Editor(door, problem, seed=1), Random(1)
        )
    assert not [step for step in problem.steps if step.decision == "malformed"]
    assert [step for step in problem.steps if step.decision == "accept"]


@pytest.mark.parametrize(
    ("strategy", "name"), [("targeted_edit", "edit_instructions"), ("example_addition", "example_instructions")]
)
def test_each_strategy_has_instructions_of_its_own(strategy: str, name: str) -> None:
    setting = Setting({"edits": [], "example_ids": [], "reasoning": ""})
    setting.optimize(strategy=strategy, max_epochs=1, **{name: "Mine."})
    assert setting.questions[0].startswith("Mine.")
    with pytest.raises(UsageError, match=f"instructions is for strategy full_rewrite, not for {strategy}"):
        ThreeLLM(strategy=strategy, instructions="Mine.")  # type: ignore[arg-type]


def test_a_cycle_says_each_strategys_own_words() -> None:
    setting = Setting({"system": "Answer.", "output": "", "edits": [], "example_ids": [], "reasoning": ""})
    setting.optimize(
        strategy="cycle", max_epochs=3, instructions="For rewriting.", example_instructions="For examples."
    )
    said = [question.partition("\n")[0] for question in setting.questions]
    assert said[0] == "For rewriting."
    assert "For examples." in said
    assert any(line.startswith("A task model reads") for line in said)


# --------------------------------------------------------------------------- the early-stopping metric


class Politeness:
    """A second metric: 1 for prompts that the model answered with a please."""

    name = "politeness"

    def __call__(self, example: Example, answer: str) -> Score:
        return Score(float("please" in answer))


def test_the_early_stopping_metric_decides_what_an_improvement_is() -> None:
    setting = Setting(pair(9), {**pair(1, 5), "system": "Kindly +1."})
    answer = setting.answer
    setting.model._answer = lambda request, count: (
        answer(request, count) + (" please" if "Kindly" in request.messages[0].content and not request.schema else "")
    )
    setting.problem = Problem(SEED, rows("train", 10), rows("val", 10), [ExactMatch(), Politeness()], setting.door)
    setting.editor = Editor(setting.door, setting.problem, seed=1)
    steps = setting.optimize(max_epochs=2, early_stopping_metric="politeness")
    assert [(step.candidate.system[:6], step.decision) for step in steps if step.candidate] == [
        ("Answer", "reject"),
        ("Kindly", "accept"),
    ]
    assert "politeness: 0.000" in setting.questions[0]


def test_a_metric_that_the_task_has_not_is_refused_before_a_call() -> None:
    with pytest.raises(UsageError, match=r"early_stopping_metric of three_llm: 'blue'; did you mean 'bleu'"):
        ThreeLLM(early_stopping_metric="blue").check(["exact_match", "bleu"])
    ThreeLLM(early_stopping_metric="bleu").check(["exact_match", "bleu"])
