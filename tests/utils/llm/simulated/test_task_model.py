"""Answers: text that real metrics read, tokens, log-probabilities; the same in every process."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from utils.llm.simulated import simulated_model
from utils.llm.simulated.calibration import FORMAT, TASK, THINK, examples, prompt
from utils.llm.simulated.lexicon import FORMAT as FORMATS
from utils.llm.simulated.lexicon import GENERAL, SKILLS, Cue, Form
from utils.llm.simulated.task_model import in_words
from utils.metrics.label_accuracy import LabelAccuracy
from utils.metrics.numeric_match import NumericMatch
from utils.metrics.option_letter import OptionLetter
from utils.metrics.rouge_l import RougeL
from utils.metrics.token_f1 import TokenF1
from utils.prompt import Prompt
from utils.records import Message, Request

METRICS = {
    "letter": OptionLetter(),
    "label": LabelAccuracy(),
    "number": NumericMatch(),
    "short": TokenF1(),
    "summary": RougeL(),
}
ROOT = Path(__file__).parents[4]


def prompts_for(form: str, column: str) -> tuple[Prompt, Prompt]:
    """A bare prompt and one with format and thinking."""
    task = "Deal with the input and answer the question."
    good = f"{task} {FORMATS[Form(form)][2]} {GENERAL[Cue.COT][0]}"
    return Prompt(system=task, user=column), Prompt(system=good, user=column)


@pytest.mark.parametrize("form", METRICS)
def test_real_metrics_agree_with_what_was_right_and_well_formed(form, rows, answers):
    items = rows(form)
    column = "{article}" if form == "summary" else "{question}"
    model = simulated_model("sim/strong", {}, items)
    assert model.landscape.form == form
    metric = METRICS[form]
    bare, good = prompts_for(form, column)
    for said, low, high in ((bare, 0.0, 0.35), (good, 0.4, 1.0)):
        expected = []
        for example in items:
            text, _ = model.landscape.recover(said.render(example.inputs), model.landscape.items[example.id])
            view = model.landscape.view(text)
            item = model.landscape.items[example.id]
            draw = model.landscape.draws(view, item)
            p = model.landscape.p_right(view, item, statistics.NormalDist().inv_cdf(draw[0]))
            expected.append(draw[1] < p and draw[2] < view.p_form)
        given = answers(model, said, items)
        scores = [metric(e, c.text).value for e, c in zip(items, given, strict=True)]
        assert low <= statistics.mean(scores) <= high
        for score, fine in zip(scores, expected, strict=True):
            if form in ("letter", "label", "number"):
                assert (score == 1) == fine
            else:  # graded: an answer in the wrong form still shares some words
                assert (score > 0.6) == fine


def test_answers_show_how_they_fail(rows, answers):
    items = rows("number")
    model = simulated_model("sim/standard", {}, items)
    bare, good = prompts_for("number", "{question}")
    assert any("checked in" in c.text or "steps" in c.text for c in answers(model, bare, items))
    assert all("####" in c.text.splitlines()[-1] for c in answers(model, good, items) if "####" in c.text)
    assert statistics.mean(len(c.text.splitlines()) for c in answers(model, good, items)) > 2


def test_wrong_answers_leak_the_missing_skill_at_rate_h(answers):
    items = examples(1000)
    said = prompt(TASK, FORMAT)
    for h in (0.0, 0.6, 1.0):
        model = simulated_model("sim/standard", {"h": h}, items)
        wrong = leaked = 0
        for example, answer in zip(items, answers(model, said, items), strict=True):
            skill = model.landscape.skills[model.landscape.items[example.id].skill]
            last = answer.text.splitlines()[-1].removeprefix("Answer: ")
            if last in set("ABCD") - {example.target}:
                wrong += 1
                leaked += any(hint in answer.text for hint in skill.hints)
                others = [s for s in SKILLS if s.name != skill.name]
                assert not any(hint in answer.text for s in others for hint in s.hints)
        assert wrong > 180
        assert leaked / wrong == pytest.approx(h, abs=0.1)


def test_a_rule_in_the_prompt_stops_its_hint(answers):
    items = examples(200)
    model = simulated_model("sim/standard", {"h": 1.0}, items)
    skill = model.landscape.skills[0]
    told = prompt(TASK, FORMAT, skill.rules[0])
    assert not any(hint in c.text for c in answers(model, told, items) for hint in skill.hints)


def test_temperature_zero_is_fixed_and_above_it_samples_differ(ask):
    items = examples(30)
    model = simulated_model("sim/standard", {}, items)
    said = prompt(TASK, FORMAT, THINK)

    def texts(temperature, sample):
        return [
            ask(
                model,
                Request(said.render(e.inputs), {"temperature": temperature}, sample=sample, item=e.id),
            ).text
            for e in items
        ]

    assert texts(0, 0) == texts(0, 5)
    assert texts(1.0, 0) == texts(1.0, 0)
    assert texts(1.0, 0) != texts(1.0, 1)


SCRIPT = """
import asyncio, json, sys
from utils.llm.simulated import simulated_model
from utils.llm.simulated.calibration import FORMAT, TASK, THINK, examples, prompt
from utils.records import Message, Request
from utils.serialization import encode
rows = examples(40)
async def main():
    out = []
    for name in ("sim/standard", "sim/weak", "sim/flaky"):
        model = simulated_model(name, {"instance": 3}, rows)
        for temperature in (0, 1.0):
            for row in rows:
                request = Request(prompt(TASK, FORMAT, THINK).render(row.inputs),
                                  {"temperature": temperature, "logprobs": True}, item=row.id)
                try:
                    out.append(encode(await model.complete(request)))
                except Exception as error:
                    out.append(str(error))
        ask = "Improve this.\\n<prompt>\\n<system>\\nAnswer the question.\\n</system>\\n</prompt>"
        for n in range(20):
            request = Request((Message("user", ask),), {"temperature": 1.0}, sample=n)
            try:
                out.append((await model.complete(request)).text)
            except Exception as error:
                out.append(str(error))
    return out
print(json.dumps(asyncio.run(main()), sort_keys=True))
"""


def test_two_processes_give_the_same_bits():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "77")
    ]
    assert outputs[0] == outputs[1]
    assert len(json.loads(outputs[0])) == 3 * (2 * 40 + 20)


def test_importing_loads_nothing_heavy():
    script = "import sys, utils.llm.simulated; print([m for m in ('numpy', 'litellm', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_difficulties_are_recovered_by_a_logistic_fit(answers):
    items = examples(60)
    model = simulated_model("sim/standard", {"noise": 0, "item_noise": 0}, items)
    here = model.landscape
    base = [TASK, FORMAT, THINK]
    levels = [base, [*base, *(s.rules[0] for s in here.skills)], [TASK, FORMAT]]
    right: dict[str, list[tuple[float, bool]]] = {e.id: [] for e in items}
    for n in range(300):
        said = prompt(*levels[n % 3], f"This is case number {n}.")
        given = answers(model, said, items)
        view = here.view(here.recover(said.render(items[0].inputs), here.items[items[0].id])[0])
        for e, c in zip(items, given, strict=True):
            last = c.text.splitlines()[-1]
            if last in ("A", "B", "C", "D") or last.startswith("Answer: "):  # well formed
                ability = here.settings.theta + view.quality[here.items[e.id].skill]
                right[e.id].append((ability, last.endswith(e.target)))
    fitted = [_fit(right[e.id]) for e in items]
    true = [max(min(here.items[e.id].difficulty, 3), -4) for e in items]
    assert statistics.correlation(fitted, true) > 0.9


def _fit(points: list[tuple[float, bool]]) -> float:
    """The likeliest difficulty at discrimination 1 and guessing 1/4, by search over a grid."""

    def loss(b: float) -> float:
        total = 0.0
        for ability, hit in points:
            p = 0.25 + 0.75 / (1 + math.exp(b - ability))
            total -= math.log(p if hit else 1 - p)
        return total

    return min((x / 10 for x in range(-40, 31)), key=loss)


def test_tokens_follow_their_law(answers):
    items = examples(400)
    model = simulated_model("sim/standard", {}, items)

    def mean(*said: str) -> float:
        return statistics.mean(c.usage.tokens_out for c in answers(model, prompt(*said), items))

    spread = math.exp(0.25**2 / 2)  # mean of a lognormal with median 1
    check = GENERAL[Cue.VERIFY][0]
    assert mean(TASK, FORMAT) == pytest.approx(30 * spread, rel=0.05)
    assert mean(TASK, FORMAT, THINK) == pytest.approx(90 * spread, rel=0.05)
    assert mean(TASK, FORMAT, THINK, check) == pytest.approx(105 * spread, rel=0.05)
    assert mean(TASK, FORMAT, THINK, "Be concise.") == pytest.approx(54 * spread, rel=0.05)  # 40 % fewer


def test_cross_entropy_is_minus_ln_p_of_the_gold_label(rows, ask):
    for form in ("letter", "label"):
        items = rows(form)
        model = simulated_model("sim/standard", {}, items)
        said = prompts_for(form, "{question}")[1]
        seen = 0
        for e in items:
            completion = ask(
                model,
                Request(
                    said.render(e.inputs),
                    {"temperature": 0, "logprobs": True, "top_logprobs": 5},
                    item=e.id,
                ),
            )
            assert completion.logprobs is not None
            assert "".join(token.token for token in completion.logprobs) == completion.text
            last = completion.logprobs[-1]
            if e.target not in last.top:
                continue  # prose: no place where the labels compete
            seen += 1
            here = model.landscape
            item = here.items[e.id]
            view = here.view(here.recover(said.render(e.inputs), item)[0])
            p = here.p_right(view, item, statistics.NormalDist().inv_cdf(here.draws(view, item)[0]))
            assert -last.top[e.target] == pytest.approx(-math.log(p))
            assert math.fsum(math.exp(lp) for lp in last.top.values()) == pytest.approx(1)
        assert seen > 40


def test_log_probabilities_only_when_asked_and_when_the_model_has_them(ask, rows):
    items = rows("letter")
    said = prompt(TASK, FORMAT)

    def listed(name, params, wanted):
        request = Request(said.render(items[0].inputs), {"temperature": 0, **wanted}, item=items[0].id)
        return ask(simulated_model(name, params, items), request).logprobs

    assert listed("sim/standard", {}, {"logprobs": True}) is not None
    assert listed("sim/standard", {}, {}) is None
    assert listed("sim/no-logprobs", {}, {"logprobs": True}) is None
    assert listed("sim/standard", {"logprobs": False}, {"logprobs": True}) is None


def test_a_short_limit_cuts_the_answer(ask):
    items = examples(10)
    model = simulated_model("sim/standard", {}, items)
    request = Request(prompt(TASK, FORMAT, THINK).render(items[0].inputs), {"max_tokens": 10}, item="item-0")
    cut = ask(model, request)
    assert (cut.finish_reason, cut.usage.tokens_out) == ("length", 10)


def test_numbers_in_words():
    assert in_words(0) == "zero"
    assert in_words(72) == "seventy-two"
    assert in_words(1172.5) == "one thousand one hundred seventy-two point five"
    assert in_words(-3) == "minus three"
    assert in_words(2_000_001) == "two million one"


def test_an_unknown_example_is_refused_by_name(ask):
    from utils.errors import CallError, ErrorKind

    model = simulated_model("sim/standard", {}, examples(3))
    with pytest.raises(CallError, match="'elsewhere'") as caught:
        ask(model, Request((Message("user", "?"),), item="elsewhere"))
    assert caught.value.kind is ErrorKind.BAD_REQUEST
