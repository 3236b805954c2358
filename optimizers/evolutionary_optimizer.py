"""An evolutionary search over prompts: tournament parents, crossover, mutation, survival of the best (mu + lambda).

Source: the evolutionary optimizer of the opik-optimizer package, version 3; its selection by two objectives is that of
K. Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002. Differs: parents compete with their
children for survival (with `moo` the source replaces them, and loses good prompts); a population that does not fit
three times into the budget is made smaller; a child is dropped on the first few rows where it does worse than the worst
member (`first_rows`; not with `moo`), and so there may be more generations; a child that the budget cannot score is
dropped, not given a score; a child that is not new is made again, with a mutation.

    population <- seed, fresh starts from the task, variations of the seed; more by mutation; score each on a sample
    repeat until generations: children <- none
        repeat until there are as many children as members:
            two parents by tournament on rank; child <- crossover with probability .8, else a copy of the first
            mutate it at the adaptive rate: meaning or words by the editor, structure or words by text operators
        score the new ones; population <- elites and the best of both, or by fronts and crowding (`moo`)
        adapt the rate to gain and diversity; after 3 stale generations keep the elites and start afresh
    stop after 5 generations without improvement; report the whole front of (score up, tokens down)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from optimizers import text_operators
from optimizers.base import Extent, Optimizer, forecast, sample_size
from optimizers.editor import Ask, Editor, edited, prompt_schema, show_all, show_example, show_prompt, tag
from optimizers.problem import Problem
from optimizers.screening import screen
from utils.errors import UsageError
from utils.prompt import Prompt
from utils.records import Budget, Evaluation, Example, Forecast, StopReason

FRESH_SHARE = 0.2  # of the first population, beside the seed
BUDGETS_A_POPULATION = 3  # a population that takes more than a third of the trials never evolves
STALE_GAIN, GOOD_GAIN = 0.01, 0.05  # relative gains of the best score
STALE_LIMIT, PATIENCE = 3, 5  # generations: before a restart, before the end
LEAST_RATE, MOST_RATE = 0.1, 0.4  # bounds of the adaptive mutation rate
DIVERSE = 0.7  # mean distance of two prompts that is enough
WAVES = 3  # tries to get as many new children as wanted
STYLE_EXAMPLES = 5
KINDS = ("semantic", "structural", "word")
ALIKE, UNLIKE = (0.5, 0.3, 0.2), (0.4, 0.3, 0.3)  # weights of the kinds in a population of little, of enough diversity
RADICAL = 0.1  # of the semantic mutations
SYNONYM, SWAP = 0.3, 0.3  # of the word mutations; else a word is rephrased


@dataclass(frozen=True)
class EvolutionaryOptimizer(Optimizer):
    """Breed prompts: tournaments, crossover, mutation, survival of the best of parents and children."""

    population: int = 10  # mu, and as many children (lambda) a generation
    generations: int = 30  # 4 in the source's benchmark, 15 in its library, where a child costs a whole sample
    mutation_rate: float = 0.2  # of the children, before adaptation
    crossover_rate: float = 0.8  # of the children; else a copy of one parent
    tournament: int = 4  # members that compete to be a parent; 2 with moo
    elitism: int = 2  # members that are never replaced by worse ones
    adaptive_mutation: bool = True
    moo: bool = False  # two objectives: score up, prompt tokens down (NSGA-II)
    llm_crossover: bool = False  # let the editor join two parents
    infer_output_style: bool = True  # ask once what answers look like, and say so to whoever mutates
    n_samples: int = 0  # validation rows a member is scored on; 0: as many as the budget bears
    first_rows: int = 8  # of the sample, for a first look at a child; 0: none

    def __post_init__(self) -> None:
        self.refuse_below(population=2, generations=1, tournament=1, elitism=0, n_samples=0, first_rows=0)
        for name in ("mutation_rate", "crossover_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give a share from 0 to 1")
        if self.elitism >= self.population:
            raise UsageError(f"elitism {self.elitism} leaves no place in a population of {self.population}; give less")

    def optimize(self, problem: Problem, editor: Editor, rng: Random) -> StopReason:
        calls = problem.calls_left
        sample = problem.validation[: self._sample(len(problem.validation), calls)]
        size = self._population(calls, len(sample))
        if size < self.population:
            reason = f"a population of {self.population} does not fit three times into {calls} calls: {size}"
            problem.log("population", "skip", reason, numbers={"asked": self.population, "taken": size})
        seed = problem.score(problem.seed, sample)
        breeder = Breeder(self, problem, editor, rng)
        arena = Arena(problem, sample, self.moo, self.first_rows, rng)
        arena.enter(seed)
        members = [seed, *arena.judge("start", breeder.starts(size - 1, problem.seed), problem.seed)]
        rate, stale, barren, best = self.mutation_rate, 0, 0, max(arena.scored.values(), key=fitness)
        told: list[dict[str, float]] = []
        for _ in range(self.generations):
            if best.mean == 1 and not self.moo:
                return StopReason.TARGET_REACHED
            ranked = rank(members, self.moo)
            spread = text_operators.diversity([member.prompt for member in ranked])
            mean = fmean(member.mean for member in ranked)
            told.append({"members": len(ranked), "best": best.mean, "mean": mean, "diversity": spread, "rate": rate})
            problem.report("generations", told)
            trials = arena.judge("breed", breeder.children(ranked, size, rate, spread), min(ranked, key=fitness).prompt)
            members = survivors(ranked, trials, size, self.elitism, self.moo)
            self._log(problem, breeder, ranked, trials, members)
            champion = max(arena.scored.values(), key=fitness)
            gain = (champion.mean - best.mean) / max(best.mean, STALE_GAIN)
            stale = 0 if gain >= STALE_GAIN else stale + 1
            barren = 0 if champion.mean > best.mean else barren + 1
            best = champion
            if barren >= PATIENCE:
                return StopReason.NO_IMPROVEMENT
            if self.adaptive_mutation:
                rate = adapted(self.mutation_rate, gain, spread, stale)
            if stale == STALE_LIMIT:
                kept = rank(members, self.moo)[: max(1, self.elitism)]
                bar = min(members, key=fitness).prompt
                problem.log("restart", "skip", f"{stale} stale generations: {len(kept)} stay", numbers={"rate": rate})
                starts = breeder.starts(size - len(kept), problem.seed)
                members = [*kept, *arena.judge("restart", starts, bar)]
                champion = max(arena.scored.values(), key=fitness)
                barren, best = (0, champion) if champion.mean > best.mean else (barren, best)
        return StopReason.MAX_ITERATIONS

    def plan(self, extent: Extent, budget: Budget) -> Forecast:
        sample = self._sample(extent.validation, budget.task_calls)
        size = self._population(budget.task_calls, sample)
        restarts = self.generations // STALE_LIMIT
        child = min(2 * self.first_rows, sample) if self.first_rows and not self.moo else sample
        likely = sample * size + self.generations * size * child
        most = sample * (1 + size * (1 + self.generations + restarts))
        # a start asks four times, a child at most twice in each of three waves; every reply may need a repair
        asks = 2 * ((1 + restarts) * (3 + WAVES * size) + 2 * WAVES * size * self.generations)
        few = 3 + self.generations * (1 + int(size * (self.mutation_rate + self.llm_crossover * self.crossover_rate)))
        return forecast(budget, (sample, likely, most), (0, few, asks))

    def _sample(self, validation: int, calls: int) -> int:
        return min(self.n_samples, validation) if self.n_samples else sample_size(validation, calls)

    def _population(self, calls: int, sample: int) -> int:
        return max(2, min(self.population, calls // sample // BUDGETS_A_POPULATION))

    def _log(
        self,
        problem: Problem,
        breeder: Breeder,
        before: Sequence[Evaluation],
        trials: Sequence[Evaluation],
        after: Sequence[Evaluation],
    ) -> None:
        """Who stays and who goes, with the numbers."""
        worst = min(after, key=fitness)
        for trial in (*trials, *before):
            stays, child = trial in after, trial in trials
            if child or not stays:
                problem.log(
                    "select",
                    "accept" if stays else "reject" if child else "retire",
                    f"{trial.mean:.3f}; the worst that stays has {worst.mean:.3f}",
                    parents=breeder.parents.get(trial.prompt.id, ()),
                    candidate=trial.prompt,
                    numbers={"score": trial.mean, "prompt_tokens": prompt_tokens(trial.prompt), "worst": worst.mean},
                )


# ------------------------------------------------------------------ selection


def fitness(trial: Evaluation) -> tuple[float, int]:
    """Greater is better: the score, and of equals the shorter prompt."""
    return (trial.mean, -trial.prompt.length)


def prompt_tokens(prompt: Prompt) -> int:
    """About the tokens of the prompt, four characters each: what `moo` makes small."""
    return -(-prompt.length // 4)


def fronts(trials: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The trials by non-dominated fronts over (score up, tokens down); within a front the least crowded first."""
    from types import SimpleNamespace

    from deap import base, tools

    class Worth(base.Fitness):  # type: ignore[misc]  # deap has no types
        weights = (1.0, -1.0)

    members = [SimpleNamespace(trial=t, fitness=Worth((t.mean, prompt_tokens(t.prompt)))) for t in trials]
    sorted_fronts = tools.sortNondominated(members, len(members))
    for front in sorted_fronts:
        tools.emo.assignCrowdingDist(front)
    spread = [sorted(front, key=lambda member: -member.fitness.crowding_dist) for front in sorted_fronts]
    return [[member.trial for member in front] for front in spread]


def rank(trials: Sequence[Evaluation], moo: bool) -> list[Evaluation]:
    """The trials, best first."""
    if moo:
        return [trial for front in fronts(trials) for trial in front]
    return sorted(trials, key=fitness, reverse=True)


def survivors(
    parents: Sequence[Evaluation], children: Sequence[Evaluation], size: int, elitism: int, moo: bool
) -> list[Evaluation]:
    """The elites among the parents and the best of everybody else, each prompt once; with `moo` the best fronts."""
    everybody = list({trial.prompt.id: trial for trial in (*parents, *children)}.values())
    if moo:
        return rank(everybody, moo)[:size]
    elites = rank(parents, moo)[:elitism]
    return [*elites, *rank([trial for trial in everybody if trial not in elites], moo)[: size - len(elites)]]


def adapted(base: float, gain: float, spread: float, stale: int) -> float:
    """The mutation rate for the next generation, from the relative gain, the diversity and the stale generations."""
    bonus = 0.5 * max(0.0, DIVERSE - spread)
    if stale >= STALE_LIMIT:
        return min(2.5 * base + bonus, MOST_RATE)
    if gain < STALE_GAIN:
        return min(2 * base + bonus if spread < DIVERSE else 1.5 * base + 0.5 * bonus, MOST_RATE)
    if gain > GOOD_GAIN:
        return max(0.8 * base + 0.3 * bonus, LEAST_RATE)
    return min(base + bonus, MOST_RATE)


class Arena:
    """Where prompts are scored: on one sample, and whatever took the whole of it is remembered for the front."""

    def __init__(self, problem: Problem, sample: Sequence[Example], moo: bool, first_rows: int, rng: Random) -> None:
        self.scored: dict[str, Evaluation] = {}
        self._problem = problem
        self._sample = sample
        self._first_rows = 0 if moo else first_rows  # a prompt that scores less may still be on the front
        self._rng = rng

    def enter(self, trial: Evaluation) -> None:
        """Remember a trial on the whole sample, and report the front of all."""
        self.scored[trial.prompt.id] = trial
        front = sorted(fronts(list(self.scored.values()))[0], key=fitness, reverse=True)
        rows = [{"prompt": t.prompt, "score": t.mean, "prompt_tokens": prompt_tokens(t.prompt)} for t in front]
        self._problem.report("front", rows)

    def judge(self, operator: str, prompts: Sequence[Prompt], bar: Prompt) -> list[Evaluation]:
        """The trials of the prompts that a first look did not drop."""
        looks = screen(self._problem, operator, prompts, bar, self._sample, self._first_rows, self._rng)
        trials = [look.trial for look in looks if look.passed]
        for trial in trials:
            self.enter(trial)
        return trials


class Breeder:
    """Makes prompts of prompts: by the editor where meaning is at stake, else by text operators."""

    def __init__(self, options: EvolutionaryOptimizer, problem: Problem, editor: Editor, rng: Random) -> None:
        self.parents: dict[str, list[Prompt]] = {}  # of each child
        self._options = options
        self._problem = problem
        self._editor = editor
        self._rng = rng
        self._replies: list[dict[str, Any] | None] = []  # to the questions of the step
        self._examples = problem.draw(STYLE_EXAMPLES, rng)
        self._style = self._infer_style() if options.infer_output_style else ""

    def starts(self, count: int, parent: Prompt) -> list[Prompt]:
        """New prompts to start from: some written afresh for the task, the rest variations of the parent."""
        if count < 1:
            return []
        fresh = min(count, max(1, int(FRESH_SHARE * count)))
        listed = _object(prompts={"type": "array", "items": prompt_schema(parent), "minItems": 1})
        shown = show_all([show_prompt(parent), *map(show_example, self._examples)])
        asks = [Ask(FRESH.format(count=fresh), self._with_style(shown), listed)]
        if count > fresh:
            asks.append(Ask(VARY.format(count=count - fresh), self._with_style(show_prompt(parent)), listed))
        found: dict[str, Prompt] = {}
        for reply in self._ask_all("start", asks):
            for row in reply["prompts"] if reply else ():
                self._admit(found, edited(parent, row), [parent], "start")
        if len(found) < count:
            bred = [(parent, parent)] * (count - len(found))
            self._mutate_into(found, bred, [parent] * len(bred), 1.0, 0.0)
        return self._proposed(found, parent)[:count]

    def children(self, ranked: Sequence[Evaluation], count: int, rate: float, spread: float) -> list[Prompt]:
        """New prompts of parents chosen by tournament; a child that is not new is made again, with a mutation."""
        found: dict[str, Prompt] = {}
        for wave in range(WAVES):
            couples = [(self._parent(ranked), self._parent(ranked)) for _ in range(count - len(found))]
            if couples:
                couples, made = self._crossed(couples)
                self._mutate_into(found, couples, made, rate if wave == 0 else 1.0, spread)
        return self._proposed(found, ranked[0].prompt)[:count]

    def _parent(self, ranked: Sequence[Evaluation]) -> Prompt:
        """The best of a few members drawn at random."""
        size = 2 if self._options.moo else self._options.tournament
        return ranked[min(self._rng.randrange(len(ranked)) for _ in range(size))].prompt

    def _crossed(self, couples: Sequence[tuple[Prompt, Prompt]]) -> tuple[list[tuple[Prompt, Prompt]], list[Prompt]]:
        """The couples with their children; a couple that the editor joins may have two."""
        crossing = [self._rng.random() < self._options.crossover_rate and a.id != b.id for a, b in couples]
        joined: dict[int, dict[str, Any]] = {}
        if self._options.llm_crossover:
            which = [i for i, crosses in enumerate(crossing) if crosses]
            asks = [Ask(JOIN, show_all(map(show_prompt, couples[i])), _children(couples[i][0])) for i in which]
            replies = zip(which, self._ask_all("crossover", asks), strict=True)
            joined = {i: reply for i, reply in replies if reply is not None}
        made: list[tuple[tuple[Prompt, Prompt], Prompt]] = []
        for i, (first, second) in enumerate(couples):
            if i in joined:
                made += [(couples[i], edited(first, joined[i][name])) for name in ("child_1", "child_2")]
            elif crossing[i]:
                made.append((couples[i], text_operators.crossover(first, second, self._rng)))
            else:
                made.append((couples[i], first))
        return [couple for couple, _ in made], [child for _, child in made]

    def _mutate_into(
        self,
        found: dict[str, Prompt],
        couples: Sequence[tuple[Prompt, Prompt]],
        made: Sequence[Prompt],
        rate: float,
        spread: float,
    ) -> None:
        """Mutate some of what was made, with one batch of questions for all, and keep what is new."""
        mutations = [self._mutation(child, spread) if self._rng.random() < rate else child for child in made]
        asks = [mutation.ask for mutation in mutations if isinstance(mutation, Question)]
        replies = iter(self._ask_all("mutate", asks))
        for couple, child, mutation in zip(couples, made, mutations, strict=True):
            changed = mutation if isinstance(mutation, Prompt) else mutation.answered(child, next(replies))
            self._admit(found, changed, couple, "breed")

    def _mutation(self, prompt: Prompt, spread: float) -> Prompt | Question:
        """A mutant, or what to ask the editor for one."""
        kind = self._rng.choices(KINDS, ALIKE if spread < DIVERSE else UNLIKE)[0]
        if kind == "structural":
            return text_operators.structural(prompt, self._rng)
        draw = self._rng.random()
        if kind == "semantic":
            instruction = MUTATE_RADICALLY if draw < RADICAL else self._rng.choice(MUTATIONS)
            return Question(Ask(instruction, self._with_style(show_prompt(prompt)), prompt_schema(prompt)))
        place = text_operators.pick_word(prompt, self._rng)
        if place is None or SYNONYM <= draw < SYNONYM + SWAP:
            return text_operators.swap_words(prompt, self._rng)
        data = show_all([tag("sentence", place[1]), tag("word", place[2])])
        return Question(Ask(ONE_WORD if draw < SYNONYM else FEW_WORDS, data, REPLACEMENT), place)

    def _admit(self, found: dict[str, Prompt], child: Prompt, parents: Sequence[Prompt], operator: str) -> None:
        """Keep a child that is new and valid; note why not."""
        parents = list({parent.id: parent for parent in parents}.values())
        if child.id in found or self._problem.is_scored(child):
            if all(child.id != parent.id for parent in parents):  # a copy is no proposal
                self._problem.log(operator, "duplicate", "scored before", parents=parents, candidate=child)
        elif objection := self._problem.objection(child):
            self._problem.log(operator, "invalid", objection, parents=parents, candidate=child)
        else:
            found[child.id] = child
            self.parents[child.id] = parents

    def _proposed(self, found: dict[str, Prompt], parent: Prompt) -> list[Prompt]:
        """All that was found; steps in a row in which the editor says nothing that can be read end the search."""
        new = list(found.values())
        silent = bool(self._replies) and not any(self._replies)
        self._replies.clear()
        if silent or new:  # nothing but duplicates is no failure of the editor's
            self._editor.accept("breed", parent, None if silent else new[0])
        return new

    def _ask_all(self, operator: str, asks: Sequence[Ask]) -> list[dict[str, Any] | None]:
        replies = self._editor.ask_all(operator, asks)
        self._replies += replies
        return replies

    def _infer_style(self) -> str:
        ask = Ask(STYLE, show_all(map(show_example, self._examples)), _object(style=TEXT))
        reply = self._editor.ask("infer_style", ask)
        self._problem.log("infer_style", "accept" if reply else "skip", reply["style"] if reply else "no reply")
        return str(reply["style"]).strip() if reply else ""

    def _with_style(self, data: str) -> str:
        return f"{data}\n\n{tag('answers_look_like', self._style)}" if self._style else data


@dataclass(frozen=True)
class Question:
    """A mutation that the editor is asked for: a whole prompt, or other words for one `place` in it."""

    ask: Ask
    place: tuple[str, str, str] | None = None  # role, sentence, word

    def answered(self, prompt: Prompt, reply: dict[str, Any] | None) -> Prompt:
        """The mutant; the prompt itself where the reply is of no use."""
        if reply is None:
            return prompt
        if self.place is None:
            return edited(prompt, reply)
        words = " ".join(reply["replacement"].split())
        return text_operators.replace_word(prompt, *self.place, words) if words else prompt


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with these properties, all required."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _children(prompt: Prompt) -> dict[str, Any]:
    return _object(child_1=prompt_schema(prompt), child_2=prompt_schema(prompt))


TEXT = {"type": "string"}
REPLACEMENT = _object(replacement=TEXT)

STYLE = """\
Describe in one or two sentences the form that the expected answers below have: what kind of thing each is, how long,
and what stands around it. Say nothing about their content."""

FRESH = """\
The prompt below was written for a task; the examples show inputs and expected answers. Forget its wording, and write
{count} fresh prompts for the same task from scratch, each by another approach."""

VARY = """\
Write {count} variations of the prompt below. Each serves the same task and improves another thing: clarity, structure,
precision, or what it says about how to work and how to answer."""

JOIN = """\
Combine the two prompts below into two children: `child_1` takes its approach from the first and details from the
second, `child_2` the other way round. Each must read as one consistent prompt."""

MUTATIONS = (
    "Rephrase the prompt below: the same meaning in other words.",
    "Simplify the prompt below: leave out what is not needed, and use plain words.",
    "Elaborate the prompt below: say more exactly what is to be done, and how.",
    "Restructure the prompt below: bring what it says into a better order or form.",
    "Focus the prompt below: stress what matters most for a right answer.",
    "Add to the prompt below one detail that would help whoever has to answer: a step, a condition, or a caution.",
)

MUTATE_RADICALLY = "Replace the prompt below by a radically different one for the same task: another approach and tone."

ONE_WORD = "Give a synonym of the word that fits into the sentence: `replacement` takes its place."

FEW_WORDS = "Say the word in the sentence otherwise, in two to four words: `replacement` takes its place."
