"""What a container does with a call, on a folder that stands for the volume: once, in time, and never an exception."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import benchmark_task
from benchmark_config import DEFAULTS
from benchmark_task import code_of
from modal_utils import worker_core
from modal_utils.deployment import code_hash
from modal_utils.storage import Mounted
from modal_utils.worker_core import Order, look_around, run_optimization_task
from tests.models import Script, Scripted, failing
from utils.archive import Folder, Kind, RunArchive
from utils.errors import CallError, ErrorKind
from utils.journal import Entry, read_lines
from utils.llm.base import LLM
from utils.records import Budget, Spend, Status, TaskResult, TaskSpec
from utils.serialization import decode, encode

SPEC = TaskSpec("gsm8k", "no_op", "openai/gpt-4o-mini", 1, data="sample", test_mode=True, budget=Budget(task_calls=60))
CALLS = 10  # of this task: five validation rows, five test rows
CALL = "fc-000000000001"


def order(spec: TaskSpec = SPEC, **more: Any) -> Order:
    settings = {"in_flight": 2, "call_timeout_s": 60.0, "task_timeout_s": 60.0, "log_level": "info"}
    return Order(**{"run_id": "r", "submission": 1, "spec": spec, "earlier": (), "retried_at": 0, **settings, **more})


def told(request: Any, count: int) -> str:
    """An answer that the question decides."""
    return f"#### {len(request.messages[-1].content) % 7}"


class Model(Scripted):
    """Does something of the test's at each call, before it answers; from the call `holds` on, once `released`."""

    def __init__(
        self,
        at: Callable[[int], None] = lambda count: None,
        answer: Script = told,
        pause_s: float = 0,
        holds: int = CALLS,
        released: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(answer, SPEC.model)
        self._at = at
        self._pause_s = pause_s
        self._holds = holds
        self._released = released

    async def pause(self, count: int) -> None:
        self._at(count)
        await asyncio.sleep(self._pause_s)
        while count >= self._holds and not self._released():
            await asyncio.sleep(0.001)


def interrupt() -> None:
    """What a preemption does: SIGINT, which Python hands to the main thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class Volume:
    """What containers have published; each works on a copy, and a lost one takes its copy with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.master = folder / "master"
        self.master.mkdir(parents=True)
        self.events: list[str] = []
        self._names = count(1)

    @property
    def archive(self) -> RunArchive:
        return RunArchive(Folder(self.master), "r")

    def container(self) -> Mounted:
        """The volume as a new container has it."""
        root = self.folder / f"copy-{next(self._names)}"
        shutil.copytree(self.master, root)

        def commit() -> None:
            self.events.append("commit")
            heard = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            try:  # an interrupted container has no say in a commit that is under way
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
                shutil.copytree(root, self.master, dirs_exist_ok=True)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)

        def reload() -> None:
            held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
            assert not [path for path in held if path.startswith(str(root))], "a volume with open files is not reloaded"
            self.events.append("reload")
            shutil.copytree(self.master, root, dirs_exist_ok=True)

        return Mounted(root, commit, reload)

    @property
    def entries(self) -> list[Entry]:
        """Every published call."""
        texts = [self.archive.blobs.read(f"journal/{name}").decode() for name in self.archive.blobs.list("journal")]
        found = [entry for text in texts for entry in read_lines(text, "x")]
        return [entry for entry in found if isinstance(entry, Entry)]

    @property
    def results(self) -> list[TaskResult]:
        return [self.archive.load_details(name) for name in self.archive.blobs.list("results")]


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return begun(tmp_path / "volume")


def begun(folder: Path) -> Volume:
    """A volume with a run whose one task was dispatched."""
    volume = Volume(folder)
    volume.archive.submit(Kind.NEW, [SPEC], "now")
    return volume


@pytest.fixture
def is_draining(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether the attempt was told to ask nothing more."""
    places: list[benchmark_task.Place] = []
    attempt = benchmark_task.attempt
    monkeypatch.setattr(worker_core, "attempt", lambda spec, place: (places.append(place), attempt(spec, place))[1])
    return lambda: places[-1].draining()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[LLM], None]:
    """Every task asks this model."""
    return lambda model: monkeypatch.setattr(benchmark_task, "connect", lambda *_, **__: model)


def work(volume: Volume, which: Order | None = None, call: str = CALL, **more: Any) -> dict[str, Any]:
    """The call, in a new container."""
    return run_optimization_task(which or order(), volume.container(), call, "ta-1", **more)


def same(one: TaskResult, other: TaskResult) -> bool:
    return bool(encode(replace(one, seconds=0.0)) == encode(replace(other, seconds=0.0)))


# --------------------------------------------------------------------------- once


def test_a_call_answers_in_few_words_and_its_result_is_on_the_volume(volume: Volume, use: Any) -> None:
    use(model := Model())
    summary = work(volume)
    (result,) = volume.results
    assert (result.status, len(model.requests), len(volume.entries)) == (Status.COMPLETED, CALLS, CALLS)
    assert summary == {
        "task_id": SPEC.task_id,
        "state": "completed",
        "score": result.final and result.final.scores["test"].mean,
        "seconds": result.seconds,
        "error": "",
    }


@pytest.mark.parametrize("answer", [told, lambda request, count: CallError(ErrorKind.AUTH, "refused")])
def test_a_call_made_again_returns_what_it_wrote_and_runs_nothing(volume: Volume, use: Any, answer: Script) -> None:
    use(model := Model(answer=answer))
    first = work(volume)
    asked, names = len(model.requests), volume.archive.blobs.list("started")
    assert work(volume) == first
    assert len(model.requests) == asked
    assert volume.archive.blobs.list("started") == names
    assert len(volume.results) == 1


@pytest.mark.parametrize("kind", [Kind.RESUME, Kind.RETRY, Kind.CANCEL])
def test_a_later_dispatch_of_the_task_leaves_an_earlier_call_nothing_to_do(
    volume: Volume, use: Any, kind: Kind
) -> None:
    use(model := Model())
    volume.archive.submit(kind, [SPEC], "later")
    assert work(volume) == {"task_id": SPEC.task_id, "state": "superseded"}
    assert (model.requests, volume.results) == ([], [])


def test_a_later_dispatch_that_is_published_while_a_call_starts_is_seen_by_it(volume: Volume, use: Any) -> None:
    use(model := Model())
    blobs = volume.container()
    publish = blobs.commit

    def overtaken() -> None:
        blobs.commit = publish
        publish()
        volume.archive.submit(Kind.RESUME, [SPEC], "just then")

    blobs.commit = overtaken
    assert run_optimization_task(order(), blobs, CALL, "ta-1")["state"] == "superseded"
    assert model.requests == []


def test_a_later_dispatch_of_other_tasks_disturbs_no_call(volume: Volume, use: Any) -> None:
    use(Model())
    volume.archive.submit(Kind.CANCEL, [replace(SPEC, seed=2)], "later")
    assert work(volume)["state"] == "completed"


def test_what_began_is_published_and_then_looked_up_before_a_model_is_asked(volume: Volume, use: Any) -> None:
    published: list[str] = []
    use(Model(at=lambda count: volume.events.append("asked")))
    blobs = volume.container()
    commit = blobs.commit

    def watched() -> None:
        commit()
        published.append(" ".join(volume.archive.blobs.list("started")))

    blobs.commit = watched
    run_optimization_task(order(), blobs, CALL, "ta-1")
    assert volume.events[: volume.events.index("asked")] == ["reload", "commit", "reload"]
    assert published[0] == f"{SPEC.task_id}@1.00000001001"


def test_a_call_that_finds_its_task_done_by_another_ends(volume: Volume, use: Any) -> None:
    use(Model())
    done = work(volume)
    volume.archive.submit(Kind.RESUME, [SPEC], "by a client that had looked before it was done")
    use(model := Model())
    assert work(volume, order(submission=2), "fc-000000000002") == done
    assert model.requests == []
    assert len(volume.results) == 1


def test_a_call_of_a_retry_is_not_stopped_by_the_failure_that_it_retries(volume: Volume, use: Any) -> None:
    use(failing(ErrorKind.AUTH, "refused", SPEC.model))
    assert work(volume)["state"] == "failed"
    volume.archive.submit(Kind.RETRY, [SPEC], "later")
    use(Model())
    assert work(volume, order(submission=2, retried_at=2), "fc-000000000002")["state"] == "completed"


# --------------------------------------------------------------------------- lost containers


# an interrupt may come between the opening of a file and whoever closes it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(moments=st.lists(st.integers(0, CALLS - 1), max_size=DEFAULTS.restarts), seed=st.integers(0, 3))
@settings(max_examples=12)
def test_whenever_containers_are_lost_the_result_is_the_same_and_no_published_answer_is_asked_for_again(
    tmp_path_factory: pytest.TempPathFactory, moments: list[int], seed: int
) -> None:
    volume = begun(tmp_path_factory.mktemp("volume") / "v")
    answered = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_core, "COMMIT_EVERY_S", 0.002)
        for moment in moments:
            blobs = volume.container()
            done = len(volume.entries)

            def lost(count: int, at: int = moment, blobs: Mounted = blobs) -> None:
                if count == at:
                    blobs.commit = lambda: None
                    interrupt()

            model = Model(lost, pause_s=0.003)
            patch.setattr(benchmark_task, "connect", lambda *_, _model=model, **__: _model)
            if moment < CALLS - done:
                with pytest.raises(KeyboardInterrupt):
                    run_optimization_task(order(), blobs, CALL, "ta-1")
            else:
                assert run_optimization_task(order(), blobs, CALL, "ta-1")["state"] == "completed"
            answered += len(model.requests)
        last = Model()
        patch.setattr(benchmark_task, "connect", lambda *_, **__: last)
        assert work(volume)["state"] == "completed"
    keys = [(entry.key, entry.occurrence) for entry in volume.entries]
    assert len(keys) == len(set(keys)) == CALLS
    (result,) = volume.results
    undisturbed = begun(tmp_path_factory.mktemp("volume") / "v")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_task, "connect", lambda *_, **__: Model())
        work(undisturbed)
    assert same(result, undisturbed.results[0])


def test_a_lost_containers_attempt_is_known_by_the_call_and_not_by_the_container(volume: Volume, use: Any) -> None:
    use(Model(lambda count: interrupt() if count == 3 else None))
    with pytest.raises(KeyboardInterrupt):
        work(volume)
    saved = len(volume.entries)
    assert saved >= 3
    use(other := Model())
    assert work(volume, call="fc-000000000002")["state"] == "completed"
    assert len(other.requests) == CALLS, "another call knows nothing of it"
    use(again := Model())
    assert work(volume)["state"] == "completed"
    assert len(again.requests) == CALLS - saved


def test_attempts_of_earlier_dispatches_are_replayed(volume: Volume, use: Any) -> None:
    use(Model(lambda count: interrupt() if count == 3 else None))
    with pytest.raises(KeyboardInterrupt):
        work(volume)
    volume.archive.submit(Kind.RESUME, [SPEC], "later")
    earlier = volume.archive.states([SPEC])[SPEC.task_id].attempts
    saved = len(volume.entries)
    use(model := Model())
    assert work(volume, order(submission=2, earlier=earlier), "fc-000000000002")["state"] == "completed"
    assert len(model.requests) == CALLS - saved


def test_a_task_whose_containers_are_lost_before_any_answer_fails_as_a_crash(volume: Volume, use: Any) -> None:
    for _ in range(DEFAULTS.restarts + 1):
        blobs = volume.container()

        def lost(count: int, blobs: Mounted = blobs) -> None:
            if not count:
                blobs.commit = lambda: None
                interrupt()

        use(Model(lost, pause_s=0.02))
        with pytest.raises(KeyboardInterrupt):
            run_optimization_task(order(), blobs, CALL, "ta-1")
        assert volume.entries == []
    use(model := Model())
    assert work(volume)["error"] == "crash: its container was lost 4 times without one new answer; see its log"
    assert model.requests == []
    (result,) = volume.results
    assert result.error
    assert result.error.kind is ErrorKind.CRASH


# --------------------------------------------------------------------------- endings


def test_a_preempted_call_journals_what_is_in_flight_publishes_it_and_goes(
    volume: Volume, use: Any, is_draining: Callable[[], bool]
) -> None:
    use(model := Model(lambda count: interrupt() if count == 4 else None, holds=4, released=is_draining))
    with pytest.raises(KeyboardInterrupt):
        work(volume)
    assert len(model.requests) in (5, 6), "nothing more was asked"
    assert len(volume.entries) == len(model.requests), "every answer is published"
    assert volume.results == []
    (name,) = volume.archive.blobs.list("paid")
    paid = json.loads(volume.archive.blobs.read(f"paid/{name}"))
    assert paid == encode(sum((entry.billed for entry in volume.entries), Spend())), "and what they cost"


def test_a_call_in_flight_holds_a_leaving_container_no_longer_than_it_may(
    volume: Volume, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_core, "GRACE_S", 0.1)
    release = threading.Event()

    use(Model(lambda count: interrupt(), holds=0, released=release.is_set))
    try:
        with pytest.raises(KeyboardInterrupt):
            work(volume, order(in_flight=1))
        assert volume.results == []
    finally:
        release.set()


def test_a_task_past_its_deadline_fails_with_its_class_and_keeps_what_was_answered(
    volume: Volume, use: Any, is_draining: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_core, "COMMIT_EVERY_S", 0.01)
    use(model := Model(holds=3, released=is_draining))
    summary = work(volume, order(in_flight=1), clock=lambda: 61.0 * (len(model.requests) > 3))
    assert summary["state"] == "failed"
    assert summary["error"] == "timeout: not done after 60 s; raise --task-timeout and retry"
    assert len(volume.entries) == len(model.requests) == 4
    (result,) = volume.results
    assert (result.status, result.error and result.error.kind) == (Status.FAILED, ErrorKind.TIMEOUT)
    assert result.spent.billed == sum((entry.billed for entry in volume.entries), Spend())


@pytest.mark.parametrize(
    ("spec", "model", "kind"),
    [
        (SPEC, failing(ErrorKind.AUTH, "refused", SPEC.model), ErrorKind.AUTH),
        (replace(SPEC, optimizer="gone"), Model(), ErrorKind.BAD_REQUEST),
        (replace(SPEC, metric="gone"), Model(), ErrorKind.BAD_REQUEST),
    ],
)
def test_a_failing_task_is_a_result(volume: Volume, use: Any, spec: TaskSpec, model: LLM, kind: ErrorKind) -> None:
    use(model)
    summary = work(volume, order(spec))
    assert summary["error"].startswith(f"{kind.value}: ")
    (result,) = volume.results
    assert result.error
    assert result.error.kind is kind
    assert "Traceback" in result.error.traceback


def test_what_is_logged_is_a_file_of_the_run(volume: Volume, use: Any) -> None:
    use(failing(ErrorKind.AUTH, "refused", SPEC.model))
    work(volume)
    (log,) = (volume.master / "logs").iterdir()
    assert log.name == f"optimization_{SPEC.task_id}@1.00000001001.log"
    assert "call fc-000000000001, container ta-1" in log.read_text()
    assert "the task failed" in log.read_text()


def test_an_order_travels_as_plain_data() -> None:
    assert decode(Order, encode(order(earlier=()))) == order()


# --------------------------------------------------------------------------- before anything is submitted


def test_a_look_around_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    seen = look_around(["openai/gpt-4o-mini", "sim/standard", "mistral/mistral-small-latest"], {}, "")
    assert seen["missing"] == {
        "openai/gpt-4o-mini": "OPENAI_API_KEY",
        "mistral/mistral-small-latest": "MISTRAL_API_KEY",
    }
    assert seen["problems"] == []
    assert seen["code_hash"] == code_hash()
    assert "litellm" in seen["versions"]


def test_a_look_around_tells_of_the_code_of_tasks_and_of_one_that_it_does_not_have() -> None:
    assert look_around([], {}, "", [SPEC])["code"] == code_of(SPEC)
    (problem,) = look_around([], {}, "", [replace(SPEC, optimizer="newer")])["problems"]
    assert "'newer'" in problem
    assert "modal deploy" in problem


def test_a_look_around_tells_of_unknown_models_and_metrics() -> None:
    seen = look_around(["sim/standart"], {}, "exact_macth")
    assert seen["missing"] == {}
    model, metric = seen["problems"]
    assert "'sim/standard'" in model
    assert "of the deployed worker" in metric
