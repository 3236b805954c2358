"""Containers that are lost, preempted, cancelled, timed out, or lose their output: every task ends, and is paid once.

The provider answers differently each time, so an answer that was asked for again would show.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from modal_utils.worker_core import COMMIT_EVERY_S
from tests.local.command import MODEL, entries
from tests.local.test_kill import answering, replayed
from tests.modal_utils.command import Cloud, cloud, statuses
from tests.servers.openai_server import OpenAIServer
from tests.waiting import until
from utils.archive import RunArchive
from utils.records import Status

WORKERS, IN_FLIGHT = 3, 4  # containers, and open calls of each
LATENCY_S = (0.03, 0.08)
AT_RISK = IN_FLIGHT + int(IN_FLIGHT * COMMIT_EVERY_S / LATENCY_S[0])  # answers that a lost container can take with it
FINAL = {"completed", "failed"}


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answering(), latency_s=LATENCY_S) as server:
        yield server


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, server: OpenAIServer) -> Iterator[Cloud]:
    keys = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": server.url}
    own = {"background_commit_s": 0.0}  # what is published, our worker publishes
    settings = {"secrets": {"llm-api-keys": keys}, "max_procs": WORKERS + 1, "scaledown_s": 5.0, **own}
    with cloud(tmp_path_factory.mktemp("plane"), **settings) as deployed:
        yield deployed


@pytest.fixture
def deployed(plane: Cloud, server: OpenAIServer) -> Iterator[Cloud]:
    """The control plane; faults and counts of one test do not reach the next."""
    server.app.reset()
    yield plane
    plane.plane.faults([])


def submit(deployed: Cloud, run_id: str, words: str) -> None:
    limits = f"--max-concurrent {WORKERS} --max-in-flight {WORKERS * IN_FLIGHT} --no-cache --yes"
    deployed.submit(*f"--data sample --models {MODEL} {words} {limits} --run-id {run_id}".split())


def strike(function: str = "run_task", **rule: Any) -> dict[str, Any]:
    return {"at": "input", "function": function, "times": 1, **rule}


def finish(deployed: Cloud, run_id: str, resumes: int = 4) -> dict[str, Any]:
    """The run once every task is final, resumed at most so often."""
    overview = deployed.wait(run_id)
    for _ in range(resumes):
        if set(statuses(overview)) <= FINAL:
            return overview
        deployed.submit("--resume-run-id", run_id)
        overview = deployed.wait(run_id)
    assert set(statuses(overview)) <= FINAL, statuses(overview)
    return overview


def lost_answers(server: OpenAIServer, archive: RunArchive) -> int:
    """Answers that were given and that no journal has."""
    journalled = sum(1 for entry in entries(archive) if entry.billed.calls)
    return int(server.stats()["answered"]) - journalled


def struck(deployed: Cloud, *actions: str) -> int:
    """How often this really happened to a container."""
    reasons = [dead["why"] for dead in deployed.plane.state(full=True)["dead"]]
    return sum(reasons.count(f"fault {action}") for action in actions)


def has_one_result_each(archive: RunArchive, overview: dict[str, Any]) -> bool:
    results = Counter(name.partition("@")[0] for name in archive.blobs.list("results"))
    return results == Counter(task["task_id"] for task in overview["tasks"])


def is_as_its_journal_says(archive: RunArchive) -> bool:
    """Every completed task is what its own journals give, with nothing asked."""
    plan = archive.load_plan()
    states = archive.states(plan.tasks)
    for spec in plan.tasks:
        stored = archive.load_details(states[spec.task_id].result)
        if stored.status is Status.COMPLETED:
            again, model = replayed(archive, spec)
            if model.requests or (again.final, again.initial) != (stored.final, stored.initial):
                return False
    return True


def chaos(deployed: Cloud, server: OpenAIServer, run_id: str, seeds: int, rng: random.Random) -> None:
    before = struck(deployed, "crash", "drop_output")
    rules = [
        strike(action=action, after=rng.uniform(0.2, 2.5), skip=rng.randint(0, 2 * seeds))
        for action, share in (("crash", 3), ("preempt", 3), ("cancel", 2))
        for _ in range(share * seeds // 4 + 1)
    ]
    rules += [
        {**strike(action="drop_output", skip=rng.randint(0, 4)), "at": "output"} for _ in range(max(1, seeds // 4))
    ]
    rng.shuffle(rules)
    deployed.plane.faults(rules)
    numbers = " ".join(map(str, range(seeds)))
    lists = f"--demo-datasets gsm8k ai2_arc --optimizers no_op few_shot:max_trials=6 --seeds {numbers}"
    submit(deployed, run_id, f"{lists} --test-mode --budget 60")
    overview = finish(deployed, run_id)
    archive = deployed.archive(run_id)
    assert statuses(overview) == {"completed": 4 * seeds}
    assert has_one_result_each(archive, overview)
    assert is_as_its_journal_says(archive)
    crashes = struck(deployed, "crash", "drop_output") - before
    assert crashes > 0
    assert 0 <= lost_answers(server, archive) <= crashes * AT_RISK
    spared = [rule for rule in deployed.plane.state()["faults"] if rule["times"]]
    assert len(spared) < len(rules) / 2, "most of what was planned has happened"
    assert deployed.volume["conflicting_overwrites"] == 0


def test_whatever_happens_to_8_tasks_every_one_ends_and_is_scored_once(deployed: Cloud, server: OpenAIServer) -> None:
    chaos(deployed, server, "chaos", 2, random.Random(1))


@pytest.mark.trial
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_to_60_tasks(deployed: Cloud, server: OpenAIServer, seed: int) -> None:
    chaos(deployed, server, f"chaos-{seed}", 15, random.Random(seed))


@pytest.mark.trial
def test_preemptions_cost_no_answer(deployed: Cloud, server: OpenAIServer) -> None:
    before = struck(deployed, "preempt")
    deployed.plane.faults([strike(action="preempt", after=0.3 + 0.3 * number, skip=number) for number in range(3)])
    submit(deployed, "preempted", "--demo-datasets gsm8k --optimizers few_shot:max_trials=6 --seeds 1 2 --test-mode")
    overview = finish(deployed, "preempted", resumes=0)
    archive = deployed.archive("preempted")
    assert struck(deployed, "preempt") - before >= 2
    assert statuses(overview) == {"completed": 2}
    assert has_one_result_each(archive, overview)
    assert is_as_its_journal_says(archive)
    assert lost_answers(server, archive) == 0
    assert deployed.volume["conflicting_overwrites"] == 0


@pytest.mark.trial
def test_a_crash_costs_no_more_than_the_answers_since_the_last_commit(deployed: Cloud, server: OpenAIServer) -> None:
    before = struck(deployed, "crash")
    deployed.plane.faults([strike(action="crash", after=2.5 * COMMIT_EVERY_S)])
    submit(deployed, "crashed", "--demo-datasets gsm8k --optimizers hill_climb --seeds 1 --budget 1000")
    until(lambda: struck(deployed, "crash") > before)
    given = int(server.stats()["answered"])
    overview = finish(deployed, "crashed", resumes=0)
    archive = deployed.archive("crashed")
    assert statuses(overview) == {"completed": 1}
    assert overview["tasks"][0]["attempts"] == 2
    lost = lost_answers(server, archive)
    assert 0 < lost < 0.7 * given, f"of {given} answers before the crash {lost} were lost"
    assert lost <= AT_RISK
    assert is_as_its_journal_says(archive)


@pytest.mark.trial
def test_a_task_that_takes_too_long_fails_with_its_class_and_a_retry_goes_on(
    deployed: Cloud, server: OpenAIServer
) -> None:
    words = "--demo-datasets gsm8k --optimizers hill_climb --seeds 1 --budget 150"
    submit(deployed, "late", f"{words} --task-timeout 3")
    overview = finish(deployed, "late", resumes=0)
    archive = deployed.archive("late")
    late = [task for task in overview["tasks"] if task["error"]]
    assert {task["error"]["class"] for task in late} == {"timeout"}
    assert all("--task-timeout" in task["error"]["message"] for task in late)
    assert late
    assert lost_answers(server, archive) == 0
    deployed.submit("--retry-failed-run-id", "late", "--error-class", "timeout", "--task-timeout", "100")
    assert statuses(finish(deployed, "late", resumes=0)) == {"completed": 1}
    assert lost_answers(server, archive) == 0
    assert is_as_its_journal_says(archive)
