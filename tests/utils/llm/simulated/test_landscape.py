"""The landscape: known orderings, the optimum, what cannot be gamed."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from utils.llm.simulated import simulated_model
from utils.llm.simulated.calibration import (
    FORMAT,
    GIBBERISH,
    TASK,
    THINK,
    examples,
    measure,
    prompt,
    rules,
    table,
)
from utils.llm.simulated.features import Features
from utils.llm.simulated.landscape import Landscape, expected, oracle, regret, true_score
from utils.llm.simulated.lexicon import FORMAT as FORMATS
from utils.llm.simulated.lexicon import GENERAL, SKILLS, Cue, Form
from utils.llm.simulated.lexicon import TASK as TASKS
from utils.llm.simulated.settings import settings_for
from utils.prompt import Demo, Prompt

ROWS = examples(200)
PAGE = Path(__file__).parents[4] / "docs" / "simulated.md"
# score of the prototype that the defaults are fitted to, and how far off the mean over instances may be
PUBLISHED = {
    "empty": (0.04, 0.02),
    "gibberish": (0.0, 0.01),
    "task statement": (0.05, 0.02),
    "format": (0.30, 0.03),
    "format + task": (0.38, 0.03),
    "format + task + CoT": (0.57, 0.03),
    "format + task + CoT + all rules": (0.72, 0.06),
    "format + task + CoT, contradicted": (0.26, 0.05),
    "optimum without demos": (0.75, 0.04),
}


def landscape(instance: int = 0, name: str = "sim/standard", rows=ROWS, **params) -> Landscape:
    return Landscape(rows, settings_for(name, {"instance": instance, **params}), name)


@pytest.fixture(scope="module")
def measured():
    return measure()


def test_the_defaults_meet_the_published_figures(measured):
    means = {row.name: row.mean for row in measured}
    for name, (score, tolerance) in PUBLISHED.items():
        assert means[name] == pytest.approx(score, abs=tolerance), name


def test_the_page_shows_the_figures_that_are_measured(measured):
    assert table(measured) in PAGE.read_text(encoding="utf-8")


def test_prompts_are_ordered_as_they_should_be(measured):
    means = {row.name: row.mean for row in measured}
    order = ["gibberish", "empty", "task statement", "format", "format + task", "format + task + CoT"]
    order += ["format + task + CoT + all rules", "optimum with demos"]
    assert [means[name] for name in order] == sorted(means[name] for name in order)
    assert means["sim/weak: format + task + CoT"] < means["format + task + CoT"]
    assert means["format + task + CoT"] < means["sim/strong: format + task + CoT"]


def test_thinking_aloud_hurts_on_some_instances():
    signs = [landscape(n).weights.cot > 0 for n in range(60)]
    assert 2 <= signs.count(False) <= 20


def test_an_instance_redraws_skills_items_and_weights():
    one, two = landscape(0), landscape(1)
    assert one.weights != two.weights
    assert [s.name for s in one.skills] != [s.name for s in two.skills]
    assert one.items["item-0"].difficulty != two.items["item-0"].difficulty


def test_a_landscape_does_not_depend_on_the_number_or_order_of_its_rows():
    part = landscape(rows=ROWS[:40][::-1])
    whole = landscape()
    assert part.weights == whole.weights
    assert part.items["item-3"] == whole.items["item-3"]


def test_words_without_sentences_score_below_a_plain_task_statement_with_format():
    sentences = [*TASKS[Form.LETTER], *FORMATS[Form.LETTER], *itertools.chain(*GENERAL.values())]
    sentences += [rule for skill in SKILLS for rule in skill.rules]
    words = sorted({word.strip(".,").lower() for sentence in sentences for word in sentence.split()})
    stuffed = ["verify step-by-step letter expert concise units negation timeline totals conditions definitions"]
    for n in range(5):
        here = landscape(n)
        plain = true_score(here, prompt(TASK, FORMAT), ROWS)
        for bag in (" ".join(words), ", ".join(words), *stuffed):
            assert true_score(here, prompt(bag), ROWS) < plain
        # all sentences at once are natural, and still worse than the optimum: length and contradictions cost
        everything = prompt(*itertools.chain(*FORMATS.values()), *sentences)
        assert true_score(here, everything, ROWS) < oracle(here, ROWS).score - 0.1


def test_the_optimum_is_that_of_brute_force():
    here = landscape(3, K=3)
    items = list(here.items.values())[:60]
    best = 0.0
    names = [skill.name for skill in here.skills]
    for size in range(len(Cue) + 1):
        for cues in itertools.combinations(Cue, size):
            for count in range(len(names) + 1):
                for chosen in itertools.combinations(names, count):
                    features = Features(format=True, cues=frozenset(cues), skills=frozenset(chosen))
                    best = max(best, expected(here, items, features))
    assert oracle(here, ROWS[:60]).score == pytest.approx(best, abs=1e-12)


def test_demos_raise_the_optimum_and_a_known_prompt_reaches_it():
    here = landscape(0, noise=0, item_noise=0)
    pool, items = ROWS[:50], ROWS[50:]
    best = oracle(here, items, pool)
    assert best.score > oracle(here, items).score + 0.05
    shown = [Demo(e.id, e.inputs, e.target) for name in best.demos for e in pool if e.id == name]
    said = [TASK, FORMAT, *(GENERAL[cue][1] for cue in sorted(best.cues) if cue is not Cue.TASK)]
    said += [skill.rules[0] for skill in here.skills if skill.name in best.skills]
    assert true_score(here, prompt(*said).with_demos(shown), items) == pytest.approx(best.score, abs=1e-9)


def test_regret_is_one_at_the_seed_and_zero_at_the_optimum():
    assert regret(0.8, 0.2, 0.2) == 1
    assert regret(0.8, 0.2, 0.8) == 0
    assert regret(0.8, 0.2, 0.5) == pytest.approx(0.5)
    assert math.isnan(regret(0.5, 0.5, 0.5))


def test_which_demos_are_shown_matters_and_can_be_learnt():
    here = landscape(0)
    pool, items = ROWS[:60], ROWS[60:]
    rng = random.Random(1)
    base = prompt(TASK, FORMAT, THINK)

    def score(chosen):
        return true_score(here, base.with_demos(Demo(e.id, e.inputs, e.target) for e in chosen), items)

    sets = [rng.sample(pool, 5) for _ in range(60)]
    scores = [score(chosen) for chosen in sets]
    # the mean score of the sets that an example was in: a crude additive fit
    worth = {
        e.id: sum(with_it) / len(with_it)
        if (with_it := [s for c, s in zip(sets, scores, strict=True) if e in c])
        else 0
        for e in pool
    }
    learnt = sorted(pool, key=lambda e: -worth[e.id])[:5]
    mean = sum(scores) / len(scores)
    assert score(learnt) > mean + 0.04
    best = [e for e in pool if e.id in oracle(here, items, pool).demos][:5]
    assert score(best) > mean + 0.05


def test_a_demo_counts_only_with_its_right_answer():
    here = landscape(0, noise=0, item_noise=0)
    shown = ROWS[:4]
    right = prompt(TASK, FORMAT).with_demos(Demo(e.id, e.inputs, e.target) for e in shown)
    wrong = prompt(TASK, FORMAT).with_demos(Demo(e.id, e.inputs, "ABCD"["BCDA".index(e.target)]) for e in shown)
    none = prompt(TASK, FORMAT)
    assert true_score(here, wrong, ROWS[10:]) < true_score(here, none, ROWS[10:]) < true_score(here, right, ROWS[10:])


def test_demos_written_by_hand_into_a_text_count_too():
    here = landscape(0)
    lines = "\n\n".join(f"Q: {e.inputs['question']}\nA: {e.target}" for e in ROWS[:4])
    by_hand = Prompt(system=f"{TASK}\n\n{lines}", user="{question}")
    text, shown = here.recover(by_hand.render(ROWS[9].inputs), here.items["item-9"])
    assert shown
    assert here.view(text).demos == 4
    assert here.view(text).features.tokens < 20  # demos are no instructions


def test_a_prompt_has_one_text_whatever_the_item():
    here = landscape(0)
    many = prompt(TASK).with_demos(Demo(e.id, e.inputs, e.target) for e in ROWS[:5])
    texts = {here.recover(many.render(e.inputs), here.items[e.id])[0] for e in ROWS[20:60]}
    assert len(texts) == 1


def test_a_prompt_that_hides_the_input_leaves_guessing():
    here = landscape(0)
    blind = Prompt(system=f"{TASK} {FORMAT} {THINK}", user="Go on.")
    assert true_score(here, blind, ROWS) < 0.26


def test_on_the_null_instance_no_prompt_gains_anything():
    for n in range(3):
        here = landscape(n, "sim/null")
        scores = {
            true_score(here, p, ROWS)
            for p in (prompt(), prompt(TASK), prompt(TASK, FORMAT, THINK, *rules(here)), prompt(GIBBERISH))
        }
        assert len(scores) == 1
        assert oracle(here, ROWS, ROWS[:20]).score == pytest.approx(scores.pop(), abs=1e-9)


def test_null_comparisons_find_a_difference_no_more_often_than_chance(answers):
    model = simulated_model("sim/null", {}, ROWS)
    differs = 0
    for n in range(60):
        one = answers(model, prompt(f"First wording number {n}."), ROWS)
        two = answers(model, prompt(f"Second wording number {n}."), ROWS)
        pairs = [(a.text.endswith(e.target), b.text.endswith(e.target)) for a, b, e in zip(one, two, ROWS, strict=True)]
        wins, losses = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        differs += abs(wins - losses) > 1.96 * math.sqrt(wins + losses)  # sign test
    assert differs <= 7  # 3 expected of 60; 99 % of binomial(60, .05) is at most 7


def test_paraphrases_differ_and_noise_zero_makes_them_equal():
    ways = [prompt(TASK, sentence) for sentence in FORMATS[Form.LETTER]]
    assert len({true_score(landscape(0), way, ROWS) for way in ways}) == len(ways)
    quiet = landscape(0, noise=0, item_noise=0)
    assert len({true_score(quiet, way, ROWS) for way in ways}) == 1
