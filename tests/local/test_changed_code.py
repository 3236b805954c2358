"""A run is of one program: where the code that decides its results has changed, it goes on only if told so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import benchmark_task
from benchmark_config import Settings
from benchmark_task import Launch, Place, attempt, code_of
from local.launch import plan_again, plan_new
from local.venue import LocalVenue
from utils import fingerprint
from utils.archive import Attempt, local_archive
from utils.errors import UsageError
from utils.records import Budget, TaskSpec
from utils.serialization import content_hash

METRIC = "def score(example, answer):\n    return 1.0\n"


class Venue(LocalVenue):
    """This machine, with no workers to warm up."""

    def warm_up(self, models: Sequence[str]) -> None:
        pass


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "changing_metric.py"
    path.write_text(METRIC)
    forget()
    return path


def forget() -> None:
    """What a new process would not know."""
    sys.modules.pop("changing_metric", None)
    for cached in (benchmark_task._code_of, fingerprint._path, fingerprint._read):
        cached.cache_clear()


def planned(folder: Path, *seeds: int, accepted: bool = False) -> Launch:
    settings = Settings(
        demo_datasets=("gsm8k",),
        optimizers=("no_op",),
        models=("sim/standard",),
        seeds=seeds,
        data="sample",
        test_mode=True,
        metric="changing_metric:score",
        run_id="r",
    )
    launch = plan_new(settings, Venue(str(folder)), accept_changed_code=accepted)
    if launch.added:
        launch.archive.save_plan(launch.added)
    return launch


def test_a_run_whose_metric_was_changed_is_refused_in_one_line(metric: Path, tmp_path: Path) -> None:
    planned(tmp_path, 1)
    metric.write_text(METRIC.replace("1.0", "0.5"))
    forget()
    for seeds in ((1,), (1, 2)):
        with pytest.raises(UsageError, match=r"code of changing_metric is not .* run 'r' .* --accept-changed-code$"):
            planned(tmp_path, *seeds)
    with pytest.raises(UsageError, match="changing_metric"):
        plan_again(Settings(), Venue(str(tmp_path)), "r", retry=False)
    metric.write_text(METRIC)
    forget()
    assert planned(tmp_path, 1).added is None


def test_changed_code_that_was_accepted_is_that_of_the_run_from_then_on(metric: Path, tmp_path: Path) -> None:
    planned(tmp_path, 1)
    metric.write_text(METRIC.replace("1.0", "0.5"))
    forget()
    launch = planned(tmp_path, 1, accepted=True)
    assert len(launch.tasks) == len(launch.archive.load_plan().tasks) == 1
    assert planned(tmp_path, 1).added is None
    assert planned(tmp_path, 1, 2).added


def test_a_run_of_the_version_before_fingerprints_goes_on(metric: Path, tmp_path: Path) -> None:
    launch = planned(tmp_path, 1)
    text = (tmp_path / "r" / "plan.json").read_text()
    (tmp_path / "r" / "plan.json").write_text(text.replace('"code":{', '"codes_of_another_age":{'))
    metric.write_text(METRIC.replace("1.0", "0.5"))
    forget()
    assert planned(tmp_path, 1).tasks == launch.tasks


def test_a_result_says_which_code_decided_it(tmp_path: Path) -> None:
    spec = TaskSpec("gsm8k", "no_op", "sim/standard", 1, data="sample", test_mode=True, budget=Budget(60))
    result = attempt(spec, Place(local_archive(tmp_path, "r"), Attempt(spec.task_id, 1, "001")))
    assert result
    assert result.code == content_hash(code_of(spec))
