"""`--delete-run-id`: a run with all its files and nothing else, and only where it is really wanted."""

from __future__ import annotations

import builtins
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import run_benchmark
from local.venue import locked
from utils.archive import Attempt, Folder, Kind, RunArchive, local_archive
from utils.records import RunPlan, TaskSpec

SPEC = TaskSpec("toy", "no_op", "sim/standard", 1)
Said = pytest.CaptureFixture[str]


def made(root: Path, run_id: str) -> RunArchive:
    archive = local_archive(root, run_id)
    archive.save_plan(RunPlan(run_id, "2026-01-01T00:00:00+00:00", (SPEC,)))
    archive.submit(Kind.NEW, [SPEC], "now")
    archive.blobs.write("journal/x.jsonl", b"paid\n")
    return archive


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def delete(root: Path, run_id: str, *more: str) -> int:
    return run_benchmark.cli(["--delete-run-id", run_id, "--checkpoint-dir", str(root), *more])


def test_a_run_is_deleted_and_nothing_else_is(tmp_path: Path, capsys: Said) -> None:
    root, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_bytes(b"of somebody else")
    made(root, "first")
    made(root, "second")
    (root / "first" / "data").symlink_to(elsewhere)
    before = files(root / "second")
    assert delete(root, "first", "--yes") == 0
    assert capsys.readouterr().out == "run first: deleted\n"
    assert [path.name for path in root.iterdir()] == ["second"]
    assert files(root / "second") == before
    assert files(elsewhere) == {"kept": b"of somebody else"}


@pytest.mark.parametrize("more", [(), ("--yes",)])
def test_a_run_that_is_worked_on_is_refused(more: tuple[str, ...], tmp_path: Path, capsys: Said) -> None:
    archive = made(tmp_path, "busy")
    before = files(tmp_path)
    with locked(tmp_path, "busy"):
        assert delete(tmp_path, "busy", *more) == 2
        assert "run 'busy' is locked by process" in capsys.readouterr().err
    stray = Folder(tmp_path / "busy").claim(archive.started_name(Attempt(SPEC.task_id, 1, "001")))
    assert delete(tmp_path, "busy", *more) == 2
    assert "a worker of run 'busy' is still at work" in capsys.readouterr().err
    stray.release()
    assert before.items() <= files(tmp_path).items()


def test_without_a_terminal_and_without_yes_nothing_is_deleted(tmp_path: Path, capsys: Said) -> None:
    made(tmp_path, "kept")
    assert delete(tmp_path, "kept") == 2
    assert "--yes" in capsys.readouterr().err
    assert (tmp_path / "kept" / "plan.json").exists()


@pytest.mark.parametrize(("answer", "is_there"), [("n", True), ("", True), ("y", False)])
def test_it_is_asked_first(
    answer: str, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    made(tmp_path, "perhaps")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", lambda *_: answer)
    assert delete(tmp_path, "perhaps") == (2 if is_there else 0)
    out, err = capsys.readouterr()
    assert "Delete run 'perhaps' in" in out
    assert ("nothing was deleted" in err) == is_there
    assert (tmp_path / "perhaps").exists() == is_there


def test_a_deletion_that_was_cut_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "cut")
    remove: Callable[..., None] = shutil.rmtree
    removed: list[Path] = []

    def fail(path: Path) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        assert delete(tmp_path, "cut", "--yes") == 130
    assert (tmp_path / "cut" / "plan.json").exists(), "still a run, by its plan"
    assert delete(tmp_path, "cut", "--yes") == 0
    assert not (tmp_path / "cut").exists()


def test_an_unknown_run_is_named_with_the_nearest_and_the_option_stands_alone(tmp_path: Path, capsys: Said) -> None:
    made(tmp_path, "known")
    assert delete(tmp_path, "knwon") == 2
    assert "unknown run 'knwon'; did you mean 'known'?" in capsys.readouterr().err
    assert delete(tmp_path, "known", "--resume-run-id", "known") == 2
    assert "--delete-run-id stands alone; leave --resume-run-id out" in capsys.readouterr().err


def test_a_link_is_not_followed(tmp_path: Path, capsys: Said) -> None:
    made(tmp_path / "real", "r")
    (tmp_path / "r").symlink_to(tmp_path / "real" / "r")
    assert delete(tmp_path, "r", "--yes") == 2
    assert "is a link" in capsys.readouterr().err
    assert (tmp_path / "real" / "r" / "plan.json").exists()
