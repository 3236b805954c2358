"""What the tests of the simulated models share: asking, and tasks of every answer form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from utils.llm.simulated import SimulatedModel
from utils.prompt import Prompt
from utils.records import Completion, Example, Request

WORDS = [
    "lamp",
    "river",
    "stone",
    "cloud",
    "engine",
    "violin",
    "harbour",
    "garden",
    "bridge",
    "candle",
    "mirror",
    "saddle",
]
ARTICLE = (
    "The mayor opened the harbour on Monday. A crowd came in spite of the rain. The works had taken {n} years. Many "
    "shops hope for more trade. Critics doubt that. A band played until the evening. The next works begin in spring. "
    "Nobody was hurt when a crane fell over. The police closed one road. Trains ran late for most of the day."
)


def make_examples(form: str, count: int = 60) -> list[Example]:
    """Made-up rows of one answer form."""
    rows = []
    for n in range(count):
        word, other = WORDS[n % 12], WORDS[(n * 7 + n // 12 + 1) % 12]
        question = f"What about case {n} of the {word} and the {other}?"
        choices: tuple[str, ...] = ()
        inputs = {"question": question}
        if form == "letter":
            choices, target = tuple("ABCD"), "ABCD"[n % 4]
        elif form == "label":
            choices, target = ("relevant", "irrelevant"), ("relevant", "irrelevant")[n % 2]
        elif form == "number":
            target = str(7 * n + 12)
        elif form == "short":
            target = f"{word} {other}"
        else:
            inputs = {"article": f"Case {n}. " + ARTICLE.format(n=n)}
            target = (
                f"The {word} and the {other} were the talk of the town. The council met {n} times. A vote is due soon."
            )
        rows.append(Example(f"{form}-{n}", inputs, target, choices))
    return rows


@pytest.fixture
def rows() -> Callable[..., list[Example]]:
    return make_examples


@pytest.fixture
def ask() -> Callable[[SimulatedModel, Request], Completion]:
    def asked(model: SimulatedModel, request: Request) -> Completion:
        return asyncio.run(model.complete(request))

    return asked


@pytest.fixture
def answers() -> Callable[..., list[Completion]]:
    """Answers of a model to all examples under one prompt."""

    def answered(model: SimulatedModel, prompt: Prompt, examples: list[Example], **params: object) -> list[Completion]:
        async def all_of_them() -> list[Completion]:
            settings = {"temperature": 0, **params}
            return [await model.complete(Request(prompt.render(e.inputs), settings, item=e.id)) for e in examples]

        return asyncio.run(all_of_them())

    return answered
