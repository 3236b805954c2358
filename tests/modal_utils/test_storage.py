"""The volume keeps the laws of `Blobs`, from inside a container and from outside, and a run's calls and summaries."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modal_utils.storage import (
    Calls,
    Mounted,
    Remote,
    entries,
    latest_calls,
    load_summary,
    save_calls,
    save_result_to_volume,
    summarize,
)
from tests.modal_utils.command import client_of
from tests.servers.modal import Plane, running
from tests.waiting import PATIENCE_S
from utils.archive import Attempt, Blobs, Folder, RunArchive
from utils.disk import Disk
from utils.records import Status, StopReason, TaskResult, TaskSpec
from utils.report.overview import outcome
from utils.serialization import encode

FOLDERS = ("plan", "results", "started")


def mounted(root: Path) -> Mounted:
    return Mounted(root, lambda: None, lambda: None)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture(scope="module")
def volume(plane: Plane) -> Iterator[Any]:
    import modal

    with client_of(plane) as client:
        volume = modal.Volume.from_name("laws", create_if_missing=True, version=2, client=client)
        volume.hydrate()
        yield volume


@pytest.fixture(scope="module", params=["folder", "mounted", "remote"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Blobs]:
    """Makes blobs with nothing in them."""
    if request.param == "remote":
        volume, numbers = request.getfixturevalue("volume"), count()
        return lambda: Remote(volume, f"runs/{next(numbers)}")
    make: Callable[[Path], Blobs] = Folder if request.param == "folder" else mounted
    return lambda: make(tmp_path_factory.mktemp("blobs"))


names = st.builds("/".join, st.tuples(st.sampled_from(FOLDERS), st.text("ab@.", min_size=1, max_size=4))).filter(
    lambda name: not name.partition("/")[2].startswith(".")
)
few = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(writes=st.lists(st.tuples(names, st.binary(max_size=40)), max_size=8))
@few
def test_what_was_written_last_is_read_and_every_name_is_listed_once(
    fresh: Callable[[], Blobs], writes: list[tuple[str, bytes]]
) -> None:
    blobs, expected = fresh(), {}
    for name, content in writes:
        blobs.write(name, content)
        expected[name] = content
    assert {name: blobs.read(name) for name in expected} == expected
    assert blobs.read_all(list(expected)) == expected
    for folder in FOLDERS:
        inside = sorted(name.partition("/")[2] for name in expected if name.startswith(f"{folder}/"))
        assert blobs.list(folder) == inside
    assert blobs.list("") == sorted({name.partition("/")[0] for name in expected})


def test_what_is_not_there_is_not_found_and_a_folder_that_is_not_there_is_empty(fresh: Callable[[], Blobs]) -> None:
    blobs = fresh()
    assert blobs.list("results") == blobs.list("") == []
    with pytest.raises(FileNotFoundError):
        blobs.read("results/x")
    blobs.write("results/y", b"1")
    with pytest.raises(FileNotFoundError):
        blobs.read_all(["results/y", "results/x"])
    assert blobs.list("results/none") == []
    assert blobs.read_all([]) == {}


def test_what_is_written_once_is_not_written_over_and_the_same_again_is_no_fault(fresh: Callable[[], Blobs]) -> None:
    blobs = fresh()
    blobs.create("results/x", b"first")
    with pytest.raises(FileExistsError):
        blobs.create("results/x", b"other")
    blobs.create("results/x", b"first")
    assert blobs.read("results/x") == b"first"
    assert blobs.list("results") == ["x"]


def test_of_many_writers_at_once_one_creates_a_file(fresh: Callable[[], Blobs]) -> None:
    blobs, writers = fresh(), 4
    if isinstance(blobs, Mounted):
        pytest.skip("a container's names are its own: nobody writes them at once")
    ready = threading.Barrier(writers)

    def create(content: bytes) -> bytes:
        ready.wait(timeout=PATIENCE_S)
        try:
            blobs.create("submissions/1.json", content)
        except FileExistsError:
            return b""
        return content

    with ThreadPoolExecutor(writers) as pool:
        written = list(pool.map(create, (b"a", b"b", b"c", b"d")))
    assert sorted(written)[:-1] == [b""] * (writers - 1)
    assert blobs.read("submissions/1.json") == max(written)


def test_a_file_whose_acknowledgement_was_lost_is_the_writers_own(plane: Plane, volume: Any) -> None:
    blobs = Remote(volume, "runs/lost-answer")
    plane.faults([{"rpc": "VolumePutFiles2", "skip": 1, "status": "ALREADY_EXISTS", "carried_out": True}])
    try:
        blobs.create("submissions/1.json", b"mine, and nobody else's")
    finally:
        plane.faults([])
    assert blobs.read("submissions/1.json") == b"mine, and nobody else's"


@given(texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=5), max_size=5))
@few
def test_what_is_appended_is_read_in_its_order(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    for make in (Folder, mounted):
        blobs = make(tmp_path_factory.mktemp("blobs"))
        append = blobs.appender("journal/x.jsonl")
        for text in texts:
            append(text)
        if texts:
            assert blobs.read("journal/x.jsonl").decode("utf-8", "surrogatepass") == "".join(texts)


def test_nobody_appends_from_outside(volume: Any) -> None:
    with pytest.raises(io.UnsupportedOperation, match=r"journal/x\.jsonl"):
        Remote(volume, "runs/r").appender("journal/x.jsonl")


def test_a_file_that_a_container_was_still_writing_is_not_listed(
    plane: Plane, volume: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = mounted(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "rename", lambda self, path, target: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            blobs.write("results/x", b"half")
    (aside,) = (tmp_path / "results").iterdir()
    assert blobs.list("results") == []
    committed = plane.volume("laws") / "runs" / "aside" / "results"
    committed.mkdir(parents=True)
    (committed / aside.name).write_bytes(b"half")
    assert len(entries(volume, "runs/aside/results")) == 1
    assert Remote(volume, "runs/aside").list("results") == []


def test_a_file_longer_than_a_block_comes_whole(volume: Any) -> None:
    content = bytes(range(256)) * 40_000
    blobs = Remote(volume, "runs/long")
    blobs.write("results/x", content)
    assert blobs.read("results/x") == content


# --------------------------------------------------------------------------- commits


class Counted(Mounted):
    """A mounted volume that counts its commits, each of which may fail."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, self.count, lambda: None)
        self.commits = 0
        self.failure: BaseException | None = None

    def count(self) -> None:
        if failure := self.failure:
            self.failure = None
            raise failure
        self.commits += 1


def test_nothing_written_is_nothing_committed(tmp_path: Path) -> None:
    blobs = Counted(tmp_path)
    blobs.publish()
    append = blobs.appender("journal/x")
    blobs.publish()
    assert blobs.commits == 0
    append("1")
    blobs.publish()
    blobs.publish()
    assert blobs.commits == 1
    blobs.write("results/x", b"")
    append("2")
    blobs.publish()
    assert blobs.commits == 2


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ConnectionError()])
def test_what_a_failed_commit_left_is_committed_the_next_time(tmp_path: Path, failure: BaseException) -> None:
    blobs = Counted(tmp_path)
    blobs.write("results/x", b"1")
    blobs.failure = failure
    with pytest.raises(type(failure)):
        blobs.publish()
    blobs.publish()
    assert blobs.commits == 1


def test_who_follows_a_file_sees_of_it_what_is_published(tmp_path: Path) -> None:
    blobs = mounted(tmp_path)
    (tmp_path / "earlier.jsonl").write_text("of another container\n")
    append = blobs.appender("now.jsonl")
    append("one\n")
    assert blobs.read_on("now.jsonl", 0) == b""
    blobs.publish()
    append("two\n")
    assert (blobs.read_on("now.jsonl", 0), blobs.read_on("now.jsonl", 2)) == (b"one\n", b"e\n")
    blobs.publish()
    assert blobs.read_on("now.jsonl", 4) == b"two\n"
    assert blobs.read_on("earlier.jsonl", 3) == b"another container\n"


def test_no_file_stays_open_so_that_the_volume_can_be_reloaded(tmp_path: Path) -> None:
    def held() -> list[str]:
        links = (link for link in Path("/proc/self/fd").iterdir() if link.exists())
        return [str(link.readlink()) for link in links if str(link.readlink()).startswith(str(tmp_path))]

    blobs = mounted(tmp_path)
    append = blobs.appender("journal/x")
    append("1")
    blobs.write("results/x", b"1")
    assert held() == []
    inherited = Folder(tmp_path).appender("journal/x")
    assert held() != [], "as it would be with the appender of a folder"
    inherited("2")


# --------------------------------------------------------------------------- calls and summaries

SPECS = [TaskSpec("toy", "no_op", "sim/standard", seed) for seed in range(12)]


def result_of(spec: TaskSpec) -> TaskResult:
    return TaskResult(spec.task_id, Status.COMPLETED, StopReason.EXHAUSTED, float(spec.seed), True)


@given(dispatches=st.permutations([(1, 1), (1, 2), (1, 10), (2, 1), (9, 1), (10, 1)]))
@few
def test_the_call_of_the_latest_dispatch_is_a_tasks_call(
    tmp_path_factory: pytest.TempPathFactory, dispatches: list[tuple[int, int]]
) -> None:
    archive = RunArchive(mounted(tmp_path_factory.mktemp("run")), "r")
    assert latest_calls(archive) == {}
    for number, chunk in dispatches:
        save_calls(archive, Calls(number, "fu-1", {"same": f"fc-{number}-{chunk}", f"of-{number}": "fc-1"}), chunk)
    assert latest_calls(archive)["same"] == (10, "fc-10-1")
    assert set(latest_calls(archive)) == {"same", "of-1", "of-2", "of-9", "of-10"}


def test_a_summary_tells_what_the_results_tell(tmp_path: Path) -> None:
    blobs = Counted(tmp_path)
    archive = RunArchive(blobs, "r")
    assert load_summary(archive) == {}
    for spec in SPECS[:3]:
        save_result_to_volume(archive, Attempt(spec.task_id, 1, "001"), result_of(spec), blobs)
    assert blobs.commits == 3
    summarize(blobs, "r")
    assert blobs.commits == 4
    assert load_summary(archive) == {
        f"{spec.task_id}@1.001.completed.json": outcome(encode(result_of(spec))) for spec in SPECS[:3]
    }


def test_the_fullest_summary_is_the_one_that_is_read(tmp_path: Path) -> None:
    blobs = mounted(tmp_path)
    archive = RunArchive(blobs, "r")
    for number, spec in enumerate(SPECS, 1):
        save_result_to_volume(archive, Attempt(spec.task_id, 1, "001"), result_of(spec), blobs)
        summarize(blobs, "r")
        summarize(blobs, "r")
        assert len(load_summary(archive)) == number
    assert len(blobs.list("summaries")) == 2 * len(SPECS), "written once each"
