"""The figures of docs/simulated.md: what typical prompts are worth on tasks with four options.

    python -m utils.llm.simulated.calibration

prints the table; a test compares it with the page. Expected scores over made-up items, no sampling, text noise
included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from utils.llm.simulated.landscape import Landscape, oracle, true_score
from utils.llm.simulated.settings import settings_for
from utils.prompt import Demo, Prompt
from utils.records import Example

INSTANCES = 20
ITEMS = 200
SHOWN = 4  # demos in the row with demos
MODEL = "sim/standard"

TASK = "Answer the question."
FORMAT = "Reply with only the letter of the correct option."
THINK = "Think step by step."
AGAINST = "Answer in full sentences."
GIBBERISH = "zxqv blorf mnkp wuzzle trpq vlim qwrtp sdfgh"


@dataclass(frozen=True)
class Row:
    """A kind of prompt: its mean expected score over instances, and the least and the most."""

    name: str
    mean: float
    low: float
    high: float


def examples(count: int = ITEMS) -> list[Example]:
    """Made-up questions with four options."""
    return [
        Example(
            f"item-{n}", {"question": f"Which of the four parts of case {n} comes first?"}, "ABCD"[n % 4], tuple("ABCD")
        )
        for n in range(count)
    ]


def prompt(*said: str) -> Prompt:
    """A prompt of these sentences before the question."""
    return Prompt(system=" ".join(said), user="{question}")


def landscapes(rows: list[Example], model: str = MODEL) -> list[Landscape]:
    """The instances on which thinking step by step helps."""
    drawn = (Landscape(rows, settings_for(model, {"instance": n}), model) for n in range(INSTANCES))
    return [landscape for landscape in drawn if landscape.weights.cot > 0]


def measure() -> list[Row]:
    """The rows of the table."""
    rows = examples()
    pool, items = rows[:50], rows[50:]
    instances = landscapes(rows)

    def row(name: str, score: Callable[[Landscape], float], over: list[Landscape] = instances) -> Row:
        scores = [score(landscape) for landscape in over]
        return Row(name, sum(scores) / len(scores), min(scores), max(scores))

    def of(*said: str) -> Callable[[Landscape], float]:
        return lambda landscape: true_score(landscape, prompt(*said), items)

    demos = [Demo(example.id, example.inputs, example.target) for example in pool[:SHOWN]]
    thinking = prompt(TASK, FORMAT, THINK)
    return [
        row("empty", of()),
        row("gibberish", of(GIBBERISH)),
        row("task statement", of(TASK)),
        row("format", of(FORMAT)),
        row("format + task", of(TASK, FORMAT)),
        row("format + task + CoT", of(TASK, FORMAT, THINK)),
        row("format + task + CoT + all rules", lambda x: true_score(x, prompt(TASK, FORMAT, THINK, *rules(x)), items)),
        row("format + task + CoT, contradicted", of(TASK, FORMAT, THINK, AGAINST)),
        row(f"task + {SHOWN} demos", lambda x: true_score(x, prompt(TASK).with_demos(demos), items)),
        row(f"format + task + CoT + {SHOWN} demos", lambda x: true_score(x, thinking.with_demos(demos), items)),
        row("optimum without demos", lambda x: oracle(x, items).score),
        row("optimum with demos", lambda x: oracle(x, items, pool).score),
        row("sim/weak: format + task + CoT", of(TASK, FORMAT, THINK), landscapes(rows, "sim/weak")),
        row("sim/strong: format + task + CoT", of(TASK, FORMAT, THINK), landscapes(rows, "sim/strong")),
        row("sim/null: any prompt", of(TASK), [Landscape(rows, settings_for("sim/null", {}), "sim/null")]),
    ]


def rules(landscape: Landscape) -> list[str]:
    """One rule of each skill of an instance."""
    return [skill.rules[0] for skill in landscape.skills]


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = ["| prompt | mean | least | most |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(f"| {r.name} | {r.mean:.2f} | {r.low:.2f} | {r.high:.2f} |" for r in rows)])


if __name__ == "__main__":
    print(table(measure()))
