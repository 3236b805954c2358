"""A run as files: the state of every task is read off names, and every write is whole."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import same, task_results
from tests.waiting import PATIENCE_S
from utils.archive import Attempt, Folder, Kind, RunArchive, TaskState, local_archive
from utils.dataset_specs.base import Splits
from utils.disk import Disk, Log
from utils.errors import Damaged, ErrorKind, UsageError
from utils.records import Example, Failure, RunPlan, Status, StopReason, TaskResult, TaskSpec
from utils.serialization import dumps

A, B, C = (TaskSpec("toy", "no_op", "sim/standard", seed) for seed in (1, 2, 3))
TASKS = (A, B, C)
IDS = [task.task_id for task in TASKS]


class Memory:
    """Blobs in a dict that counts what it is asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.listings = 0
        self.reads = 0

    def read(self, name: str) -> bytes:
        self.reads += 1
        try:
            return self.files[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def create(self, name: str, content: bytes) -> None:
        if self.files.setdefault(name, content) != content:
            raise FileExistsError(name)

    def appender(self, name: str):
        def append(text: str) -> None:
            self.files[name] = self.files.get(name, b"") + text.encode()

        return append

    def list(self, folder: str) -> list[str]:
        self.listings += 1
        prefix = f"{folder}/" if folder else ""
        rest = [name[len(prefix) :] for name in self.files if name.startswith(prefix)]
        return sorted({name.split("/")[0] for name in rest})


@pytest.fixture
def archive() -> RunArchive:
    return RunArchive(Memory(), "r")


def attempt(spec: TaskSpec, submission: int = 1, name: str = "001") -> Attempt:
    return Attempt(spec.task_id, submission, name)


def start(archive: RunArchive, which: Attempt) -> None:
    archive.blobs.write(archive.started_name(which), b"")


def end(archive: RunArchive, which: Attempt, status: Status = Status.COMPLETED, seconds: float = 1.0) -> None:
    error = Failure(ErrorKind.AUTH, "refused") if status is Status.FAILED else None
    archive.save_result(which, TaskResult(which.task_id, status, StopReason.ERROR, seconds, True, error=error))


def status(archive: RunArchive, spec: TaskSpec = A) -> Status:
    return archive.states(TASKS)[spec.task_id].status


def plan(*tasks: TaskSpec, **more: object) -> RunPlan:
    return RunPlan("r", "2026-01-01T00:00:00+00:00", tasks, **more)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- states


def test_a_task_that_nobody_touched_is_pending(archive: RunArchive) -> None:
    assert archive.states(TASKS) == {task.task_id: TaskState() for task in TASKS}
    archive.submit(Kind.NEW, TASKS, "now")
    assert status(archive) is Status.PENDING


def test_a_task_runs_while_its_owner_lives_and_is_pending_once_it_is_gone(tmp_path: Path) -> None:
    archive = local_archive(tmp_path, "r")
    archive.submit(Kind.NEW, TASKS, "now")
    claim = Folder(tmp_path / "r").claim(archive.started_name(attempt(A)), "me")
    assert (status(archive, A), status(archive, B)) == (Status.RUNNING, Status.PENDING)
    claim.release()
    assert status(archive, A) is Status.PENDING
    assert archive.states(TASKS)[A.task_id].attempts == (attempt(A),)


def test_a_completed_task_is_completed_whatever_else_is_there(archive: RunArchive) -> None:
    archive.submit(Kind.NEW, TASKS, "now")
    end(archive, attempt(A))
    assert status(archive) is Status.COMPLETED
    archive.submit(Kind.RETRY, TASKS, "later")
    end(archive, attempt(A, 2, "002"), Status.FAILED)
    assert status(archive) is Status.COMPLETED


def test_a_failed_task_is_failed_until_it_is_dispatched_again(archive: RunArchive) -> None:
    archive.submit(Kind.NEW, TASKS, "now")
    start(archive, attempt(A))
    end(archive, attempt(A), Status.FAILED)
    assert status(archive) is Status.FAILED
    archive.submit(Kind.RETRY, [B], "later")
    assert status(archive) is Status.FAILED
    archive.submit(Kind.RETRY, [A], "later")
    assert status(archive) is Status.PENDING
    start(archive, attempt(A, 3, "002"))
    assert [a.name for a in archive.states(TASKS)[A.task_id].attempts] == ["001", "002"]
    end(archive, attempt(A, 3, "002"), Status.FAILED)
    assert status(archive) is Status.FAILED


def test_a_retried_task_that_completes_is_completed(archive: RunArchive) -> None:
    archive.submit(Kind.NEW, TASKS, "now")
    end(archive, attempt(A), Status.FAILED)
    archive.submit(Kind.RETRY, [A], "later")
    end(archive, attempt(A, 2, "002"))
    state = archive.states(TASKS)[A.task_id]
    assert state.status is Status.COMPLETED
    assert archive.load_result(state.result).status is Status.COMPLETED


def test_a_task_that_was_never_sent_can_fail(archive: RunArchive) -> None:
    archive.submit(Kind.NEW, TASKS, "now")
    end(archive, attempt(A, 1, "unsent"), Status.FAILED)
    assert archive.states(TASKS)[A.task_id] == TaskState(Status.FAILED, (), f"{A.task_id}@1.unsent.failed.json")


@pytest.mark.parametrize(
    ("earlier", "later"), [((1, "001"), (1, "002")), ((2, "001"), (10, "002")), ((9, "002"), (10, "001"))]
)
def test_of_two_completed_attempts_the_earlier_stands(
    archive: RunArchive, earlier: tuple[int, str], later: tuple[int, str]
) -> None:
    end(archive, attempt(A, *earlier), seconds=1.0)
    before = archive.states(TASKS)[A.task_id].result
    end(archive, attempt(A, *later), seconds=2.0)
    assert archive.states(TASKS)[A.task_id].result == before
    assert archive.load_result(before).seconds == 1.0


def test_attempts_are_in_the_order_in_which_they_began(archive: RunArchive) -> None:
    for submission, name in ((10, "003"), (2, "002"), (1, "001")):
        start(archive, attempt(A, submission, name))
    assert [a.submission for a in archive.states(TASKS)[A.task_id].attempts] == [1, 2, 10]


def test_files_of_other_makers_are_no_attempts(archive: RunArchive) -> None:
    for name in ("started/README", "results/notes.txt", "results/x@y.z.json", "started/@1.001"):
        archive.blobs.write(name, b"")
    assert archive.states(TASKS) == {task.task_id: TaskState() for task in TASKS}


steps = st.lists(
    st.tuples(st.sampled_from(["submit", "start", "complete", "fail", "die"]), st.sampled_from(TASKS)), max_size=15
)


@given(steps)
def test_every_transition_ends_in_the_state_that_the_story_says(story: list[tuple[str, TaskSpec]]) -> None:
    """The same story told to the files and to a model of it."""
    alive: set[str] = set()
    archive = RunArchive(Memory(), "r", alive.__contains__)
    latest = dict.fromkeys(IDS, 0)
    begun: dict[str, list[Attempt]] = {task: [] for task in IDS}
    expected = dict.fromkeys(IDS, Status.PENDING)
    for event, spec in story:
        task = spec.task_id
        current = begun[task][-1] if begun[task] else None
        if event == "submit":
            latest[task] = archive.submit(Kind.RESUME, [spec], "now").number
            if expected[task] is Status.FAILED:
                expected[task] = Status.PENDING
        elif event == "start" and latest[task] and expected[task] is Status.PENDING:
            begun[task].append(attempt(spec, latest[task], f"{len(begun[task]) + 1:03d}"))
            start(archive, begun[task][-1])
            alive.add(archive.started_name(begun[task][-1]))
            expected[task] = Status.RUNNING
        elif expected[task] is Status.RUNNING and current and event != "start":
            alive.discard(archive.started_name(current))
            expected[task] = Status.PENDING
            if event == "complete" or (event == "fail" and current.submission == latest[task]):
                expected[task] = Status.COMPLETED if event == "complete" else Status.FAILED
                end(archive, current, expected[task])
        assert {name: state.status for name, state in archive.states(TASKS).items()} == expected


def test_states_cost_two_listings_however_many_tasks(archive: RunArchive) -> None:
    many = [replace(A, seed=seed) for seed in range(500)]
    archive.submit(Kind.NEW, many, "now")
    for task in many:
        start(archive, attempt(task))
    assert isinstance(archive.blobs, Memory)
    archive.blobs.listings = archive.blobs.reads = 0
    archive.states(many)
    assert archive.blobs.listings == 3  # started, results, submissions
    assert archive.blobs.reads == 1


# --------------------------------------------------------------------------- plan, submissions, results


def test_a_plan_and_its_extensions_are_their_union_in_order(archive: RunArchive) -> None:
    assert not archive.exists()
    archive.save_plan(plan(B, A, settings={"x": 1}, data_hashes={"toy": "h"}))
    archive.save_plan(plan(A, C, settings={"x": 2}, data_hashes={"other": "g"}))
    whole = archive.load_plan()
    assert whole.tasks == (B, A, C)
    assert whole.settings == {"x": 1}
    assert whole.data_hashes == {"toy": "h", "other": "g"}
    assert archive.exists()


def test_more_than_ten_extensions_stay_in_order(archive: RunArchive) -> None:
    tasks = [replace(A, seed=seed) for seed in range(12)]
    for task in tasks:
        archive.save_plan(plan(task))
        archive.submit(Kind.EXTEND, [task], "now")
    assert archive.load_plan().tasks == tuple(tasks)
    assert [submission.number for submission in archive.submissions()] == list(range(1, 13))


def test_an_unknown_run_is_refused_with_the_way_out(archive: RunArchive) -> None:
    with pytest.raises(UsageError, match=r"unknown run 'r'; .*--list-runs"):
        archive.load_plan()


@given(task_results)
@settings(max_examples=15)
def test_a_result_is_read_as_it_was_written(result: TaskResult) -> None:
    archive, which = RunArchive(Memory(), "r"), attempt(A)
    archive.save_result(which, result)
    name = f"{which}.{result.status.value}.json"
    assert same(archive.load_details(name), result)
    assert same(archive.load_result(name), replace(result, steps=(), items={}))


def test_a_result_is_not_there_before_its_details_are(archive: RunArchive) -> None:
    assert isinstance(archive.blobs, Memory)
    written: list[str] = []
    write = archive.blobs.write
    archive.blobs.write = lambda name, content: (written.append(name), write(name, content))  # type: ignore[method-assign]
    result = TaskResult(A.task_id, Status.COMPLETED, StopReason.EXHAUSTED, 1.0, True, items={"final": ()})
    archive.save_result(attempt(A), result)
    assert [name.split("/")[0] for name in written] == ["details", "results"]


class Together(Memory):
    """Blobs whose clients all list a folder before any of them writes."""

    def __init__(self, folder: str, clients: int) -> None:
        super().__init__()
        self._folder = folder
        self._all_listed = threading.Barrier(clients)
        self._met: set[int] = set()

    def list(self, folder: str) -> list[str]:
        names = super().list(folder)
        if folder == self._folder and threading.get_ident() not in self._met:
            self._met.add(threading.get_ident())
            self._all_listed.wait(timeout=PATIENCE_S)
        return names


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """What came of each, be it an error."""

    def outcome(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except UsageError as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(outcome, actions))


def test_dispatches_of_one_moment_get_numbers_of_their_own() -> None:
    blobs = Together("submissions", 3)
    archive = RunArchive(blobs, "r")
    kinds = (Kind.NEW, Kind.RESUME, Kind.CANCEL)
    made = at_once(*(partial(archive.submit, kind, TASKS, "now", kind.value) for kind in kinds))
    assert sorted(submission.number for submission in made) == [1, 2, 3]
    blobs._met.add(threading.get_ident())
    assert archive.submissions() == sorted(made, key=lambda submission: submission.number)


def test_of_two_plans_of_one_moment_one_stands_and_the_other_is_told() -> None:
    blobs = Together("", 2)
    archive = RunArchive(blobs, "r")
    (said,) = filter(None, at_once(*(partial(archive.save_plan, plan(task)) for task in (A, B))))
    assert str(said) == (
        "run 'r' was planned by another command in this moment; give yours again: it goes on with what is left"
    )
    assert list(blobs.files) == ["plan.json"]


def test_rows_are_kept_once_and_shared_by_tasks_of_one_source(archive: RunArchive) -> None:
    rows = Splits((Example("a", {"q": "1"}, "x"),), (Example("b", {"q": "2"}, "y", ("x", "y")),), (), "h", ("note",))
    archive.save_splits(A, rows)
    archive.save_splits(A, replace(rows, data_hash="changed"))
    assert archive.load_splits(B) == rows
    assert archive.load_splits(replace(A, test_mode=True)) is None
    assert archive.load_splits(replace(A, data="sample")) is None


# --------------------------------------------------------------------------- damage


def test_a_file_that_cannot_be_read_is_named(archive: RunArchive) -> None:
    archive.save_plan(plan(A))
    archive.submit(Kind.NEW, TASKS, "now")
    archive.save_splits(A, Splits((), (), (), "h"))
    data = f"data/{archive.blobs.list('data')[0]}"
    for name, load in (
        ("plan.json", archive.load_plan),
        ("submissions/1.json", archive.submissions),
        (data, partial(archive.load_splits, A)),
    ):
        whole = archive.blobs.read(name)
        for damage in (b"", whole[:-9], whole[9:], b"\x00" * 9, b"\xff", b"[]", b"{}"):
            archive.blobs.write(name, damage)
            with pytest.raises(Damaged, match=f"^run 'r': {re.escape(name)} cannot be read: "):
                load()
        archive.blobs.write(name, whole)
        load()


def test_a_plan_that_is_gone_from_among_its_extensions_is_missed(archive: RunArchive) -> None:
    for task in TASKS:
        archive.save_plan(plan(task))
    assert isinstance(archive.blobs, Memory)
    del archive.blobs.files["plan.2.json"]
    with pytest.raises(Damaged, match=r"run 'r': plan\.2\.json is missing"):
        archive.load_plan()


def test_fields_of_a_newer_version_are_let_be_but_those_of_a_task(archive: RunArchive) -> None:
    archive.save_plan(plan(A))
    value = json.loads(archive.blobs.read("plan.json"))
    assert value["format"] == 1
    archive.blobs.write("plan.json", json.dumps({**value, "mood": "new"}).encode())
    assert archive.load_plan().tasks == (A,)
    for strange in ({**value, "tasks": [{**value["tasks"][0], "mood": "new"}]}, {**value, "format": 2}):
        archive.blobs.write("plan.json", json.dumps(strange).encode())
        with pytest.raises(Damaged, match=r"'mood'|format 2"):
            archive.load_plan()


def test_a_plan_of_the_version_before_formats_is_read(archive: RunArchive) -> None:
    archive.blobs.write("plan.json", dumps(plan(A)).encode())
    assert archive.load_plan().tasks == (A,)


def test_a_renamed_run_directory_is_the_run_of_its_new_name(tmp_path: Path) -> None:
    local_archive(tmp_path, "r").save_plan(plan(A))
    (tmp_path / "r").rename(tmp_path / "other")
    assert local_archive(tmp_path, "other").load_plan().run_id == "other"


def test_a_journal_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    archive = local_archive(tmp_path, "r")
    archive.blobs.write(archive.journal_name(attempt(A)), b"{}\n\xff\n{}\n")
    with pytest.raises(Damaged, match=r"@1\.001\.jsonl, line 2 cannot be read"):
        archive.read_journal(attempt(A))


# --------------------------------------------------------------------------- bytes


def test_a_journal_is_read_while_it_is_written(tmp_path: Path) -> None:
    archive = local_archive(tmp_path, "r")
    assert archive.read_journal(attempt(A)) == ""
    write = archive.journal(attempt(A))
    for line in ("one\n", "zwei é\n"):
        write(line)
    assert local_archive(tmp_path, "r").read_journal(attempt(A)) == "one\nzwei é\n"


def test_a_file_is_followed_from_where_it_was_left(tmp_path: Path) -> None:
    archive = local_archive(tmp_path, "r")
    assert archive.read_on("trace", attempt(A), 0) == b""
    write = archive.recording(attempt(A))
    for line in ("one\n", "zwei é\n"):
        write(line)
    assert archive.read_on("trace", attempt(A), 4) == "zwei é\n".encode()
    assert archive.read_on("trace", attempt(A), 100) == b""


def test_what_was_taken_is_kept_by_task(archive: RunArchive) -> None:
    assert archive.read_traced(A.task_id) == b""
    archive.save_traced(A.task_id, b"{}")
    assert archive.read_traced(A.task_id) == b"{}"


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.write("results/x.json", b"old")

    def killed(self: Disk, path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Disk, "rename", killed)
    for name in ("results/x.json", "results/y.json"):
        with pytest.raises(KeyboardInterrupt):
            folder.write(name, b"new")
    assert folder.read("results/x.json") == b"old"
    assert folder.list("results") == ["x.json"]


def test_two_readers_see_the_old_or_the_new_and_nothing_between(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    contents = {bytes([65 + i]) * 200_000 for i in range(4)}
    folder.write("checkpoint.json", min(contents))
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(Folder(tmp_path).read("checkpoint.json"))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(15):
        for content in sorted(contents):
            folder.write("checkpoint.json", content)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen
    assert seen <= contents
    assert folder.list("") == ["checkpoint.json"]


def test_two_archives_of_one_run_agree(tmp_path: Path) -> None:
    first, second = local_archive(tmp_path, "r"), local_archive(tmp_path, "r")
    first.save_plan(plan(*TASKS))
    first.submit(Kind.NEW, TASKS, "now")
    start(first, attempt(B))
    end(first, attempt(A))
    assert second.load_plan().tasks == TASKS
    assert first.states(TASKS) == second.states(TASKS)
    first.write_checkpoint({"x": float("nan"), "cut": "\ud83d"})
    assert json.loads(second.blobs.read("checkpoint.json"))["x"] == {"$float": "nan"}


def test_a_folder_that_is_not_there_is_empty_and_a_file_is_not_found(tmp_path: Path) -> None:
    assert Folder(tmp_path / "none").list("results") == []
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path).read("plan.json")


# --------------------------------------------------------------------------- what a power cut leaves


MINE = f".{os.getpid()}.{threading.get_ident()}"  # what the name of a file beside ends in


class Recorded(Disk):
    """The operations on a disk, in order, by the names of the files."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def note(self, operation: str, path: Path) -> None:
        self.done.append(f"{operation} {path.name.removesuffix(MINE)}")

    def write(self, path: Path, content: bytes) -> None:
        super().write(path, content)
        self.note("write", path)

    def rename(self, path: Path, target: Path) -> None:
        super().rename(path, target)
        self.note("rename", target)

    def link(self, path: Path, target: Path) -> None:
        super().link(path, target)
        self.note("link", target)

    def sync(self, path: Path) -> None:
        super().sync(path)
        self.note("sync", path)

    def open_log(self, path: Path) -> Log:
        log, done = super().open_log(path), self.done

        class Noted:
            def write(self, content: bytes) -> int:
                done.append(f"append {path.name}")
                return log.write(content)

            def sync(self) -> None:
                done.append(f"sync {path.name}")
                log.sync()

            def close(self) -> None:
                log.close()

        return Noted()


def test_a_file_is_synced_before_it_is_renamed_and_its_name_after(tmp_path: Path) -> None:
    disk = Recorded()
    Folder(tmp_path, disk).write("results/x", b"1")
    assert disk.done[-4:] == ["write .x", "sync .x", "rename x", "sync results"]
    assert disk.done[:-4] == [f"sync {tmp_path.name}"], "the new folder is there too"
    Folder(tmp_path, disk).create("results/y", b"1")
    assert disk.done[-4:] == ["write .y", "sync .y", "link y", "sync results"]


def test_a_started_attempt_is_known_after_a_power_cut(tmp_path: Path) -> None:
    disk = Recorded()
    Folder(tmp_path, disk).claim("started/x").release()
    assert disk.done == [f"sync {tmp_path.name}", "sync x", "sync started"]


def test_the_calls_of_an_attempt_are_synced_before_its_result_is_written(tmp_path: Path) -> None:
    disk = Recorded()
    archive = local_archive(tmp_path, "r", disk)
    with closing(archive.journal(attempt(A))) as calls:
        calls("{}\n")
    end(archive, attempt(A))
    name = f"{attempt(A)}.jsonl"
    assert disk.done.index("sync journal") < disk.done.index(f"append {name}") < disk.done.index(f"sync {name}")
    assert disk.done.index(f"sync {name}") < disk.done.index(f"write .{attempt(A)}.completed.json")


def test_a_journal_that_is_taken_over_is_synced(tmp_path: Path) -> None:
    disk = Recorded()
    archive = local_archive(tmp_path, "r", disk)
    archive.journal(attempt(A))("line\n")  # by a worker that was killed before it could sync
    disk.done.clear()
    assert archive.take_over(attempt(A)) == "line\n"
    assert disk.done == [f"sync {attempt(A)}.jsonl"]
    assert archive.take_over(attempt(B)) == "", "one that asked nothing has no journal"


def test_what_a_run_writes_is_its_owners_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "r")
    folder.write("results/x", b"")
    folder.appender("journal/x").close()
    folder.claim("lock").release()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"r": 0o700, "results": 0o700, "journal": 0o700, "x": 0o600, "lock": 0o600}


def test_a_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"{}")
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    folder = Folder(tmp_path)
    for touch in (folder.read, folder.claim, folder.is_claimed, folder.appender):
        with pytest.raises(UsageError, match=r"/x is a symbolic link; put the file itself in its place"):
            touch("x")
    assert (tmp_path / "elsewhere").read_bytes() == b"{}"


def test_a_torn_last_line_is_cut_off_before_more_is_appended(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"whole\ntorn")
    append = Folder(tmp_path).appender("x")
    append("next\n")
    append.close()
    assert (tmp_path / "x").read_bytes() == b"whole\nnext\n"
