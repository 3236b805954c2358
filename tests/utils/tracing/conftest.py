"""Nobody's own Opik configuration is looked at, and what the SDK reads when it is imported is set before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.opik_server import OpikServer
from tests.utils.tracing.runs import Run, task


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [each for each in os.environ if each.startswith("OPIK_")]:
        monkeypatch.delenv(name)
    empty = tmp_path_factory.getbasetemp() / "opik.config"
    empty.touch()
    monkeypatch.setenv("OPIK_CONFIG_PATH", str(empty))
    for name in ("OPIK_SENTRY_ENABLE", "OPIK_ANALYTICS_ENABLE"):
        monkeypatch.setenv(name, "false")
    monkeypatch.setenv("OPIK_CONSOLE_LOGGING_LEVEL", "CRITICAL")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)  # with it the SDK uses httpx in a deprecated way


@pytest.fixture
def server() -> Iterator[OpikServer]:
    with OpikServer(strict=True) as started:
        yield started


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A grid of 3 datasets x 3 optimizers, done; not to be written to."""
    names = ("no_op", "hill_climb", "thompson")
    specs = [task(name, dataset) for dataset in ("gsm8k", "ai2_arc", "election_questions") for name in names]
    run = Run.planned(tmp_path_factory.mktemp("grid"), specs)
    for spec in specs:
        run.attempt(spec, run.begin(spec))
    return run


@pytest.fixture
def grid(finished: Run, tmp_path: Path) -> Run:
    """The same, to be sent."""
    return finished.copied(tmp_path)


@pytest.fixture(scope="session")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One task, done; not to be written to."""
    run = Run.planned(tmp_path_factory.mktemp("one"), [task("hill_climb")])
    run.attempt(run.plan.tasks[0], run.begin(run.plan.tasks[0]))
    return run


@pytest.fixture
def one(climbed: Run, tmp_path: Path) -> Run:
    """The same, to be sent."""
    return climbed.copied(tmp_path)
