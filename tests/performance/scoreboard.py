"""Every optimizer on the simulated models, where the best that any prompt can reach is known.

    python tests/performance/scoreboard.py [NAME ...] [--instances 20] [--seeds 3] [--budgets 600 1500 4000]
        [--jobs 2] [--cache build/scoreboard.jsonl] [--first-instance 0] [--write]
    python tests/performance/scoreboard.py --assemble

An instance redraws the task: its skills, weights and items. Each cell is one whole optimization of 100 training, 100
validation and 200 test rows with four options, from a seed prompt that states the task. A prompt is judged by its true
score on the test rows, an expectation without sampling, so what differs between two optimizers is not luck of the test.

`--write` puts the results into docs/optimizers/scoreboard.json and assembles docs/optimizers.md from them and from
the sections in docs/optimizers/. Finished cells are kept; one counts as long as no code it ran on has changed. Tune on
other instances than the table's (`--first-instance 100`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmark_config import OPTIMIZERS
from benchmark_task import Work, run_task
from utils.dataset_specs.base import DatasetSpec, Sizes
from utils.door import Door
from utils.journal import Journal
from utils.ledger import Ledger
from utils.llm.simulated import simulated_model
from utils.llm.simulated.landscape import oracle, true_score
from utils.metrics.option_letter import OptionLetter
from utils.prompt import Prompt
from utils.records import Budget, Example, Role, Splits, TaskSpec
from utils.serialization import content_hash, encode

ROOT = Path(__file__).parents[2]
STANDARD, NULL = "sim/standard", "sim/null"
BUDGETS = (600, 1500, 4000)  # task calls
NULL_BUDGETS = (600, 1500)  # on null instances
INSTANCES, SEEDS = 20, 3
SEEDS_APART = 1000  # between the seeds of two instances
RIVALS = ("random_paraphrase", "hill_climb")  # that every row is compared with, instance by instance
SEED = Prompt(system="Answer the question.", user="{question}")
TRAIN, VALIDATION, TEST = 100, 100, 200  # rows
# what a result depends on besides the optimizer's own modules
SHARED = (
    "benchmark_task.py",
    "utils/door.py",
    "utils/prompt.py",
    "utils/metrics/option_letter.py",
    "utils/llm/simulated",
)

SECTIONS = ROOT / "docs" / "optimizers"
RESULTS = SECTIONS / "scoreboard.json"
PAGE = ROOT / "docs" / "optimizers.md"
STANDING = "<!-- standing -->"


# --------------------------------------------------------------------------- one optimization


@dataclass(frozen=True)
class Cell:
    """One optimization."""

    optimizer: str
    model: str
    instance: int
    seed: int
    budget: int  # task calls


@dataclass(frozen=True)
class Outcome:
    """What came of a cell; scores are true scores on the test rows."""

    cell: Cell
    true: float
    start: float  # of the seed prompt
    best: float  # of the oracle, without demos
    best_with_demos: float
    calls: int  # task calls that the budget was charged
    gained: bool  # the measured gain on test is significant
    stop: str
    seconds: float  # of processor time


def run(cell: Cell) -> Outcome:
    """The outcome of one cell."""
    began = time.process_time()
    rows, best, best_with_demos = optimum(cell.model, cell.instance)
    splits = Splits(rows[:TRAIN], rows[TRAIN:-TEST], rows[-TEST:], data_hash="")
    sizes = Sizes(TRAIN, VALIDATION, TEST)
    metrics = (OptionLetter(),)
    dataset = DatasetSpec("made up", "", 1, "", (), {}, sizes, SEED, metrics, lambda row: row)
    model = simulated_model(cell.model, {"instance": cell.instance}, rows)
    budget = Budget(cell.budget)
    # what the editor says to the same text is decided by the seed: instances of equal seeds would share their luck
    seed = cell.instance * SEEDS_APART + cell.seed
    spec = TaskSpec("made up", cell.optimizer, cell.model, seed, budget=budget)
    door = Door({Role.TASK: model, Role.OPTIMIZER: model}, Journal(lambda line: None), Ledger(budget))
    with closing(door):
        result = run_task(spec, Work(dataset, splits, SEED, metrics), OPTIMIZERS[cell.optimizer], door)
    assert result.final is not None
    assert result.gain is not None
    return Outcome(
        cell,
        true_score(model.landscape, result.final.prompt, splits.test),
        true_score(model.landscape, SEED, splits.test),
        best,
        best_with_demos,
        result.spent.logical.task_calls,
        result.gain.low > 0,
        result.stop_reason.value,
        time.process_time() - began,
    )


@cache
def optimum(model: str, instance: int) -> tuple[tuple[Example, ...], float, float]:
    """The rows of an instance, and the best true score on its test rows without and with demos."""
    texts = (
        (f"{instance}-{n}", f"Which of the four parts of case {n} comes first?")
        for n in range(TRAIN + VALIDATION + TEST)
    )
    rows = tuple(
        Example(name, {"question": text}, "ABCD"[n % 4], tuple("ABCD")) for n, (name, text) in enumerate(texts)
    )
    landscape = simulated_model(model, {"instance": instance}, rows).landscape
    test, train = rows[-TEST:], rows[:TRAIN]
    return rows, oracle(landscape, test).score, oracle(landscape, test, train).score


# --------------------------------------------------------------------------- all of them


def outcomes(cells: Sequence[Cell], jobs: int, kept: Path) -> Iterator[Outcome]:
    """The outcome of every cell: those kept first, then each as it is done, which is then kept too."""
    known = _read(kept)
    left = [cell for cell in cells if key(cell) not in known]
    yield from (known[key(cell)] for cell in cells if key(cell) in known)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as file, ProcessPoolExecutor(jobs) as pool:
        if kept.stat().st_size and not kept.read_bytes().endswith(b"\n"):
            file.write("\n")  # after a line that was cut off
        began = time.monotonic()
        # the dearest first, so that no process is left with one at the end
        waiting = [pool.submit(run, cell) for cell in sorted(left, key=lambda cell: -cell.budget)]
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                outcome = future.result()
                file.write(json.dumps({"key": key(outcome.cell), **asdict(outcome)}) + "\n")
                file.flush()
                _tell(done, len(left), time.monotonic() - began)
                yield outcome
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read(kept: Path) -> dict[str, Outcome]:
    known = {}
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:  # cut off when the command was stopped
            continue
        name = fields.pop("key")
        known[name] = Outcome(**{**fields, "cell": Cell(**fields["cell"])})
    return known


def key(cell: Cell) -> str:
    """Names a cell with the code that decides it."""
    return content_hash([encode(cell), encode(OPTIMIZERS[cell.optimizer]), code_of(cell.optimizer)], 16)


@cache
def code_of(optimizer: str) -> str:
    """A hash of the modules that an optimizer runs on."""
    paths = {ROOT / f"{type(OPTIMIZERS[optimizer]).__module__.replace('.', '/')}.py"}
    seen: set[Path] = set()
    while paths - seen:
        path = min(paths - seen)
        seen.add(path)
        for name in re.findall(r"^from (optimizers\.\w+) import", path.read_text(encoding="utf-8"), re.MULTILINE):
            paths.add(ROOT / f"{name.replace('.', '/')}.py")
    for name in SHARED:
        place = ROOT / name
        seen |= set(place.glob("*.py")) if place.is_dir() else {place}
    return content_hash([[path.name, path.read_text(encoding="utf-8")] for path in sorted(seen)], 16)


def _tell(done: int, of: int, seconds: float) -> None:
    """Progress on one line of a terminal; elsewhere a line for each twentieth."""
    live = sys.stderr.isatty()
    if live or done == of or done * 20 // of > (done - 1) * 20 // of:
        left = seconds / done * (of - done)
        text = f"{done} of {of} runs, {seconds / 60:.1f} min, about {left / 60:.1f} left"
        print(f"\r{text}   " if live else text, end="" if live and done < of else "\n", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------- what they say together


@dataclass(frozen=True)
class Row:
    """An optimizer at a budget: means over instances of means over seeds, and standard errors over instances."""

    optimizer: str
    budget: int
    instances: int
    seeds: int
    true: float
    error: float  # of `true`
    share: float  # of the gain that the oracle without demos has
    share_error: float
    share_with_demos: float
    calls: float
    wins: Mapping[str, str]  # rival -> "won of compared"; half a win for a tie


@dataclass(frozen=True)
class Luck:
    """An optimizer on null instances: how many runs showed a significant gain, of how many."""

    optimizer: str
    gains: int
    runs: int


def rows_of(found: Iterable[Outcome]) -> list[Row]:
    """A row for each optimizer and budget, on the standard model."""
    groups: dict[tuple[str, int], dict[int, list[Outcome]]] = {}
    for outcome in found:
        cell = outcome.cell
        if cell.model == STANDARD:
            groups.setdefault((cell.optimizer, cell.budget), {}).setdefault(cell.instance, []).append(outcome)
    return [
        _row(name, budget, groups) for name, budget in sorted(groups, key=lambda group: (_order(group[0]), group[1]))
    ]


def _row(name: str, budget: int, groups: Mapping[tuple[str, int], Mapping[int, Sequence[Outcome]]]) -> Row:
    by_instance = groups[name, budget]

    def means(value: str) -> list[float]:
        return [fmean(_value(outcome, value) for outcome in seeds) for seeds in by_instance.values()]

    wins = {}
    for rival in RIVALS:
        other = groups.get((rival, budget), {})
        pairs = [
            (fmean(o.true for o in seeds), fmean(o.true for o in other[instance]))
            for instance, seeds in by_instance.items()
            if instance in other
        ]
        if rival != name and pairs:
            won = sum(1.0 if mine > theirs else 0.5 if mine == theirs else 0.0 for mine, theirs in pairs)
            wins[rival] = f"{won:g} of {len(pairs)}"
    true, share = means("true"), means("share")
    return Row(
        name,
        budget,
        len(by_instance),
        max(map(len, by_instance.values())),
        fmean(true),
        _error(true),
        fmean(share),
        _error(share),
        fmean(means("share_with_demos")),
        fmean(means("calls")),
        wins,
    )


def _value(outcome: Outcome, value: str) -> float:
    gain = outcome.true - outcome.start
    if value == "share":
        return gain / (outcome.best - outcome.start)
    if value == "share_with_demos":
        return gain / (outcome.best_with_demos - outcome.start)
    return float(getattr(outcome, value))


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def luck_of(found: Iterable[Outcome]) -> list[Luck]:
    """What each optimizer seemed to gain where nothing can be gained."""
    groups: dict[str, list[bool]] = {}
    for outcome in found:
        if outcome.cell.model == NULL:
            groups.setdefault(outcome.cell.optimizer, []).append(outcome.gained)
    return [Luck(name, sum(groups[name]), len(groups[name])) for name in sorted(groups, key=_order)]


def _order(name: str) -> int:
    return list(OPTIMIZERS).index(name)


# --------------------------------------------------------------------------- the page


def table(rows: Sequence[Row], names: bool = True) -> str:
    """The rows as a Markdown table."""
    head = ["optimizer"] * names + ["task calls", "used", "true score", "share of the gain", "with demos"]
    head += [f"beats {rival}" for rival in RIVALS]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [f"`{row.optimizer}`"] * names
        cells += [f"{row.budget:,}", f"{row.calls:,.0f}", f"{row.true:.3f} ± {row.error:.3f}"]
        cells += [f"{row.share:.2f} ± {row.share_error:.2f}", f"{row.share_with_demos:.2f}"]
        cells += [row.wins.get(rival, "-") for rival in RIVALS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def luck_table(lucks: Sequence[Luck]) -> str:
    """The null instances as a Markdown table."""
    lines = ["| optimizer | significant gains | runs | share |", "| --- | --- | --- | --- |"]
    lines += [f"| `{luck.optimizer}` | {luck.gains} | {luck.runs} | {luck.gains / luck.runs:.1%} |" for luck in lucks]
    return "\n".join(lines)


def save(rows: Sequence[Row], lucks: Sequence[Luck]) -> None:
    """Put results in the place of earlier ones of the same optimizers and budgets."""
    old_rows, old_lucks = load()
    new = {(row.optimizer, row.budget): row for row in (*old_rows, *rows) if row.optimizer in OPTIMIZERS}
    lucky = {luck.optimizer: luck for luck in (*old_lucks, *lucks) if luck.optimizer in OPTIMIZERS}
    ordered = sorted(new.values(), key=lambda row: (_order(row.optimizer), row.budget))
    lines = ",\n  ".join(json.dumps(_rounded(asdict(row))) for row in ordered)
    null = ",\n  ".join(json.dumps(asdict(lucky[name])) for name in sorted(lucky, key=_order))
    RESULTS.write_text(f'{{\n "rows": [\n  {lines}\n ],\n "null": [\n  {null}\n ]\n}}\n', encoding="utf-8")


def load() -> tuple[list[Row], list[Luck]]:
    """The results that are kept with the sections."""
    if not RESULTS.exists():
        return [], []
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    return [Row(**row) for row in kept["rows"]], [Luck(**luck) for luck in kept["null"]]


def _rounded(fields: dict[str, object]) -> dict[str, object]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in fields.items()}


def page() -> str:
    """docs/optimizers.md: the introduction, the scoreboard, and a section for each row of OPTIMIZERS."""
    rows, lucks = load()
    parts = [INTRODUCTION]
    if rows:
        extent = SCOREBOARD.format(size=size_of(rows), full=FULL, test=TEST)
        parts += [extent, table(rows), NULL_SCOREBOARD, luck_table(lucks)]
    for name in OPTIMIZERS:
        path = SECTIONS / f"{name}.md"
        section = path.read_text(encoding="utf-8").strip() if path.exists() else f"## `{name}`\n\n(not described yet)"
        section = section.replace("](../", "](")  # the page stands a folder higher than its sections
        mine = [row for row in rows if row.optimizer == name]
        parts.append(section.replace(STANDING, table(mine, names=False) if mine else "(not measured yet)"))
    return "\n\n".join(parts) + "\n"


def size_of(rows: Sequence[Row]) -> str:
    """How many instances and seeds the rows are means of, and at which budgets."""
    extents: dict[tuple[int, int], list[int]] = {}
    for instances, seeds, budget in sorted({(row.instances, row.seeds, row.budget) for row in rows}):
        extents.setdefault((instances, seeds), []).append(budget)
    return "; ".join(
        f"{instances} instances x {_seeds(seeds)} at {' and '.join(f'{budget:,}' for budget in budgets)} task calls"
        for (instances, seeds), budgets in extents.items()
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


FULL = f"the whole is {INSTANCES} instances x {_seeds(SEEDS)} at {', '.join(f'{b:,}' for b in BUDGETS)}"

INTRODUCTION = """\
<!-- assembled by `make docs` from docs/optimizers/: edit there -->

# The optimizers

How they stand on the simulated models, then a section for each: what it does, when to use it, parameters, cost,
source, what differs. Every optimizer has the same budget of task calls, the same final choice among its best three
prompts, and a test that it never sees. Parameters are set on the command line, as in
`--optimizers hill_climb:batch_size=5`."""

SCOREBOARD = """\
## Scoreboard

**Simulated: this measures the mechanics of optimizers, never what they are worth on a real model.** `make scoreboard`
writes it: on `sim/standard`, four options, seed prompt "Answer the question.".
**Size: {size}**; {full}.
The *true score* is the expectation of the final prompt on {test} test rows; the *share of the gain* is (true - seed) /
(oracle - seed), where the oracle is the best combination of instructions without demos, so an optimizer that shows
demos can pass 1; *with demos* is the same against the oracle that may use them. ± is a standard error over instances.
*Beats* counts instances on which the mean over seeds is higher than that of the other at the same budget; half for a
tie. *Used* are the task calls that were charged."""

NULL_SCOREBOARD = """\
On null instances (`sim/null`: no cue matters, no text noise) nothing can be gained. Runs in which the paired interval
on test nevertheless shows a gain; luck alone is 2.5 %:"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers (default: all)")
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--first-instance", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="task calls")
    parser.add_argument("--null-budgets", type=int, nargs="*", default=list(NULL_BUDGETS), help="on null instances")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "scoreboard.jsonl")
    parser.add_argument("--write", action="store_true", help="write docs/optimizers.md")
    parser.add_argument("--assemble", action="store_true", help="run nothing, assemble docs/optimizers.md")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - OPTIMIZERS.keys():
        parser.error(f"unknown optimizer {min(unknown)!r}; known: {', '.join(OPTIMIZERS)}")
    if not args.assemble:
        numbers = range(args.first_instance, args.first_instance + args.instances)
        names = list(dict.fromkeys((*RIVALS, *args.names))) if args.names else list(OPTIMIZERS)
        cells = [
            Cell(name, model, instance, seed, budget)
            for name in names
            for model, budgets in ((STANDARD, args.budgets), (NULL, args.null_budgets))
            for budget in budgets
            for instance in numbers
            for seed in range(1, args.seeds + 1)
        ]
        found = list(outcomes(cells, args.jobs, args.cache))
        rows, lucks = rows_of(found), luck_of(found)
        print(table(rows), luck_table(lucks), sep="\n\n")
        if args.write:
            save(rows, lucks)
    if args.write or args.assemble:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
