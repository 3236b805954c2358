"""random_paraphrase: the control that luck can help."""

from __future__ import annotations

import re
from statistics import fmean

from tests.performance import scoreboard
from tests.performance.scoreboard import SEED, STANDARD, Cell


def test_luck_gains_on_the_simulated_models() -> None:
    found = [scoreboard.run(Cell("random_paraphrase", STANDARD, instance, 1, 600)) for instance in range(100, 106)]
    assert fmean(outcome.true - outcome.start for outcome in found) > 0.2
    assert all(outcome.true < 0.9 * outcome.best for outcome in found), "without evidence most cues stay unfound"


def test_instances_do_not_share_their_luck() -> None:
    found = [scoreboard.run(Cell("random_paraphrase", STANDARD, instance, 1, 200)) for instance in range(100, 104)]
    gains = {round(outcome.true - outcome.start, 1) for outcome in found}
    assert len(gains) > 1


def test_the_editor_sees_the_seed_prompt_alone(monkeypatch) -> None:
    asked = []
    real = scoreboard.simulated_model

    def listening(*args):
        model = real(*args)
        complete = model.complete

        async def listen(request):
            asked.append(request)
            return await complete(request)

        monkeypatch.setattr(model, "complete", listen)
        return model

    monkeypatch.setattr(scoreboard, "simulated_model", listening)
    scoreboard.run(Cell("random_paraphrase", STANDARD, 100, 1, 300))
    said = {request.messages[-1].content for request in asked if request.schema and len(request.messages) == 2}
    (text,) = said
    assert f"<prompt>\n<system>\n{SEED.system}\n</system>\n<user>\n{SEED.user}\n</user>\n</prompt>" in text
    assert not re.search(r"<(failure|example)|score=", text)
