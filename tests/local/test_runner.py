"""The runner, through the real command: endings, limits, faults, and the same results whatever the concurrency."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.local.command import MODEL, archive_of, entries, run, start, statuses, without_times
from tests.local.test_kill import answering
from tests.servers.openai_server import OpenAIServer
from tests.waiting import PATIENCE_S, until
from utils.errors import ErrorKind
from utils.report.tables import money

SMALL = f"--data sample --demo-datasets gsm8k --optimizers no_op --models {MODEL} --yes --run-id r"


def overview(folder: Path, run_id: str = "r") -> dict:
    return json.loads((folder / run_id / "checkpoint.json").read_text())


def interrupt(process: subprocess.Popen[str], folder: Path) -> None:
    """The first Ctrl-C, until it was heard."""
    process.send_signal(signal.SIGINT)
    until(lambda: "stopping: waiting for the calls in flight" in (folder / "output.txt").read_text())


def journalled(folder: Path) -> int:
    return sum(1 for _ in entries(archive_of(folder, "r")))


def test_first_interrupt_drains_and_the_run_is_resumable(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        server.gate.hold()
        server.gate.let(3)
        process = start(tmp_path, f"{SMALL} --max-in-flight 5 --max-concurrent 1", server)
        until(lambda: server.answered == 3 and server.gate.held == 5)
        interrupt(process, tmp_path)
        for count in range(4, 9):
            server.gate.let(1)
            until(lambda count=count: journalled(tmp_path) == count)
        server.gate.open()
        assert process.wait(PATIENCE_S) == 130
        count = journalled(tmp_path)
        assert count == server.answered, "every answered call was waited for and written down"
        found = overview(tmp_path)
        assert (found["status"], found["tasks"][0]["paid"]["task_calls"]) == ("interrupted", count)
        assert money(found["paid"]["usd"]) in (tmp_path / "output.txt").read_text()
        assert server.stats()["requests"] < 25
        assert run(tmp_path, "--resume-run-id r", server) == 0
        assert server.stats()["answered_twice"] == {}
        assert overview(tmp_path)["status"] == "completed"


def test_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        server.gate.hold()
        process = start(tmp_path, SMALL, server)
        until(lambda: server.gate.held)
        interrupt(process, tmp_path)
        assert process.poll() is None, "the first waits for what is in flight"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert server.answered == 0


def test_a_task_past_its_timeout_fails_with_its_class(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        server.gate.hold()
        server.gate.let(3)
        process = start(tmp_path, f"{SMALL} --max-in-flight 1", server)
        until(lambda: journalled(tmp_path) == 3)
        process.kill()
        process.wait()
        assert run(tmp_path, "--resume-run-id r --task-timeout 1", server) == 1
    (task,) = overview(tmp_path)["tasks"]
    assert task["error"]["class"] == ErrorKind.TIMEOUT
    assert "--task-timeout" in task["error"]["message"]
    assert task["paid"]["usd"] == sum(entry.billed.usd or 0.0 for entry in entries(archive_of(tmp_path, "r")))


def test_a_refused_key_stops_all_tasks_of_the_provider_at_once(tmp_path: Path) -> None:
    words = SMALL.replace("no_op", "no_op few_shot:max_trials=3")
    with OpenAIServer(key="the-right-one") as server:
        assert run(tmp_path, f"{words} --max-concurrent 1 --seeds 1 2 --max-in-flight 2 --test-mode", server) == 1
        assert server.stats()["requests"] <= 2, "no call is sent after the refusal"
        found = overview(tmp_path)
        assert statuses(found) == {"failed": 1, "pending": 3}
        (refused,) = (task for task in found["tasks"] if task["error"])
        assert refused["error"]["class"] == ErrorKind.AUTH
        said = (tmp_path / "output.txt").read_text()
        assert "3 tasks that need openai are not started" in said
        assert "run r: interrupted, 0 of 4 tasks completed, 1 failed, 3 not started" in said
        assert "--resume-run-id r" in said
        server.settings.key = ""
        assert run(tmp_path, "--retry-failed-run-id r", server) == 1, "the others are not done"
        assert run(tmp_path, "--resume-run-id r", server) == 0
        assert statuses(overview(tmp_path))["completed"] == len(found["tasks"])


def test_a_key_refused_for_the_optimizer_model_ends_what_uses_it_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer(key="another", answer=answering()) as editor, OpenAIServer() as server:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", editor.url)
        monkeypatch.setenv("HOSTED_VLLM_API_KEY", "wrong")
        words = SMALL.replace("no_op", "random_paraphrase no_op") + " --optimizer-model hosted_vllm/editor"
        assert run(tmp_path, f"{words} --max-concurrent 1 --seeds 1 2 --budget 60", server) == 1
        found = overview(tmp_path)
        ended = [(task["optimizer"], task["status"]) for task in found["tasks"]]
        assert ended == [
            ("random_paraphrase", "failed"),
            ("random_paraphrase", "pending"),
            ("no_op", "completed"),
            ("no_op", "completed"),
        ]
        assert found["tasks"][0]["error"]["class"] == ErrorKind.AUTH
        assert "1 not started" in (tmp_path / "output.txt").read_text()
        editor.settings.key = ""
        assert run(tmp_path, "--resume-run-id r", server) == 1, "what failed is for a retry"
        assert statuses(overview(tmp_path)) == {"completed": 3, "failed": 1}


def test_the_limit_of_a_run_is_kept_and_ends_with_exit_code_3(tmp_path: Path) -> None:
    """Calls that cost two fifths of what they might: nine tenths of the limit are spent, and no more."""
    with OpenAIServer(tokens_out=1600) as server:
        words = f"{SMALL} --seeds 1 2 3 4 5 6 --run-max-cost 0.1 --no-cache --max-concurrent 3"
        words += " --model-params max_tokens=4096"
        assert run(tmp_path, words, server) == 3, (tmp_path / "output.txt").read_text()
        stats = server.stats()
        assert 0.09 < stats["tokens_in"] * 0.15e-6 + stats["tokens_out"] * 0.6e-6 <= 0.1
        assert overview(tmp_path)["paid"]["usd"] == pytest.approx(
            stats["tokens_in"] * 0.15e-6 + stats["tokens_out"] * 0.6e-6
        )
        assert "the run's limit of $0.1 is reached" in (tmp_path / "output.txt").read_text()
        assert run(tmp_path, "--resume-run-id r --run-max-cost 10", server) == 0


def test_the_limit_of_a_run_holds_against_the_providers_own_count(tmp_path: Path) -> None:
    """Two workers, and a provider that bills answers that never come whole, too."""
    faults = {"null": 0.2, "malformed": 0.1, "drop": 0.05, "rate_limit": 0.03}
    with OpenAIServer(tokens_out=100, faults=faults, bills_lost=True, retry_after_s=0.1, seed=2) as server:
        words = f"{SMALL} --seeds 1 2 3 4 5 6 --run-max-cost 0.012 --no-cache --model-params max_tokens=120"
        assert run(tmp_path, f"{words} --max-concurrent 2", server) == 3, (tmp_path / "output.txt").read_text()
        stats = server.stats()
        assert 0.002 < stats["tokens_in"] * 0.15e-6 + stats["tokens_out"] * 0.6e-6 <= 0.012


def test_a_retry_asks_again_only_what_failed(tmp_path: Path) -> None:
    with OpenAIServer(faults={"bad_request": 0.4}, seed=3) as server:
        assert run(tmp_path, SMALL, server) == 1
        (task,) = overview(tmp_path)["tasks"]
        assert task["error"]["class"] == ErrorKind.BAD_REQUEST
        before = server.stats()
        server.settings.faults = {}
        assert run(tmp_path, "--retry-failed-run-id r", server) == 0
        after = server.stats()
        assert after["answered_twice"] == {}
        assert after["requests"] - before["requests"] < after["answered"], "what was answered before is not asked again"


@pytest.mark.trial
def test_the_grid_completes_over_http_in_spite_of_faults(tmp_path: Path) -> None:
    """5 % of 429 with Retry-After, 2 % of 500, 1 % malformed bodies, a few hangs: as a bad day at a provider."""
    faults = {"rate_limit": 0.05, "server_error": 0.02, "malformed": 0.01, "hang": 0.01}
    with OpenAIServer(answer=answering(), faults=faults, retry_after_s=0.4, hang_s=PATIENCE_S, seed=5) as server:
        names = "gsm8k ai2_arc"
        words = f"--data sample --demo-datasets {names} --optimizers no_op few_shot hill_climb --models {MODEL}"
        limits = "--budget 60 --max-concurrent 2 --call-timeout 6 --run-id r --yes"
        assert run(tmp_path, f"{words} {limits}", server) == 0, (tmp_path / "output.txt").read_text()
        stats = server.stats()
        assert stats["early_retries"] == 0
        assert {"429", "500", "hung"} <= set(stats["statuses"])
        failed = [entry for entry in entries(archive_of(tmp_path, "r")) if entry.failed]
        assert not failed, "every call was answered in the end"
        assert statuses(overview(tmp_path)) == {"completed": 6}


def test_the_same_seed_gives_the_same_results_whatever_the_concurrency(tmp_path: Path) -> None:
    lists = "--demo-datasets gsm8k ai2_arc --optimizers no_op random_paraphrase few_shot"
    words = f"--data sample {lists} --models sim/standard sim/flaky --test-mode --seed 7 --yes"
    assert run(tmp_path, f"{words} --run-id one --max-concurrent 1") in (0, 1)
    assert run(tmp_path, f"{words} --run-id two --max-concurrent 4") in (0, 1)
    first, second = (without_times(overview(tmp_path, name)) for name in ("one", "two"))
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


@pytest.mark.trial
@pytest.mark.parametrize("seeds", ["1 2", "1 2 3 4 5 6 7 8 9 10 11 12"])
def test_a_provider_that_answers_500_is_given_up_whatever_the_number_of_tasks(seeds: str, tmp_path: Path) -> None:
    with OpenAIServer(faults={"server_error": 1.0}) as server:
        words = SMALL.replace("--demo-datasets gsm8k", "--demo-datasets gsm8k ai2_arc")
        assert run(tmp_path, f"{words} --seeds {seeds} --max-concurrent 4", server) == 1
        assert server.stats()["requests"] < 120
        assert {task["error"]["class"] for task in overview(tmp_path)["tasks"] if task["error"]} == {"unavailable"}
        server.settings.faults = {}
        assert run(tmp_path, "--resume-run-id r", server) == 1
        assert run(tmp_path, "--retry-failed-run-id r", server) == 0
        assert statuses(overview(tmp_path)) == {"completed": 2 * len(seeds.split())}
