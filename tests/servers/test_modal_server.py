"""The double of Modal keeps its own promises: other tests judge the Modal path by what it does and counts.

One control plane serves most tests, with one deployed app; each test calls it with an id of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers.modal import Plane, running
from tests.servers.modal.faults import Rule
from tests.servers.modal.server import CHECKOUT
from tests.servers.modal.settings import Settings
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    import modal

APP = """
    import modal

    app = modal.App("rig", tags={"owner": "tests"})
    volume = modal.Volume.from_name("rig", create_if_missing=True, version=2)
    image = modal.Image.debian_slim().env({"RIG_TEXT": "1 2"}).add_local_python_source("rig_package")

    @app.function(
        image=image,
        volumes={"MOUNT": volume},
        timeout=3600,
        max_containers=2,
        retries=modal.Retries(max_retries=1, initial_delay=0.1, backoff_coefficient=1.0),
        secrets=[modal.Secret.from_name("rig-secret", required_keys=["RIG_KEY"])],
    )
    def task(spec):
        from rig_package.work import work

        print("the task is", spec["id"])
        return work(spec, volume)

    @app.function(image=image)
    def forgetful():
        import rig_forgotten

    @app.local_entrypoint()
    def show(run_id: str = "", watch: bool = False):
        print("SHOW", run_id, watch, task.remote({"id": "from a run"})["id"])
"""

WORK = """
    import os, socket
    from pathlib import Path

    RIG = Path("MOUNT")

    def work(spec, volume):
        out = RIG / spec["id"]
        try:
            if spec.get("early"):
                out.with_suffix(".early").touch()
            if "latch" in spec:
                with socket.create_connection(("127.0.0.1", spec["latch"])) as held:
                    held.recv(1)
            if spec.get("fail"):
                raise ValueError(f"planned failure of {spec['id']}")
            if spec.get("reload"):
                volume.reload()
            if spec.get("hold"):
                with (RIG / "held").open("w"):
                    volume.reload()
            if "write" in spec:
                (RIG / "same").write_text(spec["write"])
                volume.commit()
        except BaseException as error:
            out.with_suffix(f".{type(error).__name__}").touch()
            raise
        finally:
            out.with_suffix(".finally").touch()
        same = RIG / "same"
        return {
            "id": spec["id"],
            "pid": os.getpid(),
            "key": os.environ["RIG_KEY"],
            "text": os.environ["RIG_TEXT"],
            "size": len(spec.get("padding", "")),
            "same": same.read_text() if same.exists() else None,
        }
"""

BROKEN = """
    import modal

    app = modal.App("broken")
    if not modal.is_local():
        raise RuntimeError("this module cannot be imported in a container")

    @app.function()
    def task():
        pass
"""

SECRETIVE = """
    import modal

    app = modal.App("secretive")

    @app.function(secrets=[modal.Secret.from_name("{name}", required_keys=["RIG_KEY", "RIG_OTHER"])])
    def task():
        pass
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


def write_project(folder: Path) -> Path:
    """A folder with the apps, a package of theirs, and a module that nobody adds to an image.

    The volume's mount path is this project's alone, and one that any user may make: links go there on the host.
    """
    (folder / "rig_package").mkdir(parents=True)
    sources = {
        "rig_app.py": APP,
        "rig_package/__init__.py": "",
        "rig_package/work.py": WORK,
        "rig_forgotten.py": "",
        "broken_app.py": BROKEN,
    }
    mount = folder.with_name(f"{folder.name}-mount")
    for name, source in sources.items():
        (folder / name).write_text(textwrap.dedent(source).replace("MOUNT", str(mount)))
    return folder


Command = Callable[..., subprocess.CompletedProcess[str]]


def command(plane: Plane, project: Path) -> Command:
    """Runs the `modal` command in the project, against this control plane."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modal", *words],
            cwd=project,
            env={**os.environ, **plane.env, **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    return run


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Iterator[Plane]:
    with running(
        tmp_path_factory.mktemp("plane"),
        secrets={"rig-secret": {"RIG_KEY": "k"}},
        hide=[str(project)],
        grace_s=PATIENCE_S,
        background_commit_s=0.5,
        scaledown_s=PATIENCE_S,
    ) as plane:
        deployed = command(plane, project)("deploy", "rig_app.py")
        assert deployed.returncode == 0, deployed.stderr
        yield plane


@pytest.fixture(scope="module")
def run_modal(plane: Plane, project: Path) -> Command:
    return command(plane, project)


@pytest.fixture(scope="module")
def client(plane: Plane) -> Iterator[modal.Client]:
    with open_client(plane) as client:
        yield client


def open_client(plane: Plane) -> Any:
    """A client in this process; it closes with its block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in plane.env.items():
            patch.setenv(name, value)
        import modal

        return modal.Client.from_credentials("ak-test", "as-test")


@pytest.fixture
def task(plane: Plane, client: modal.Client) -> Iterator[modal.Function[Any, Any, Any]]:
    """The deployed function; faults of one test do not reach the next."""
    import modal

    yield modal.Function.from_name("rig", "task", client=client)
    plane.faults([])


def counted(plane: Plane, call_id: str) -> dict[str, Any]:
    """What the control plane knows of a call."""
    [found] = [each for each in plane.state(full=True)["input_list"] if each["call"] == call_id]
    return dict(found)


class Latch(socketserver.ThreadingTCPServer):
    """Holds the tasks that are given its port, until it is opened."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Held)
        self.port = self.server_address[1]
        self.came: list[object] = []  # one for each task that was held, whatever became of it
        self.opened = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.opened.set()
        self.shutdown()
        self.server_close()


class Held(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Latch)
        self.server.came.append(self)
        self.server.opened.wait()


@pytest.fixture
def latch() -> Iterator[Latch]:
    with Latch() as made:
        yield made


def container_of(plane: Plane, call_id: str) -> str:
    [container] = [each["id"] for each in plane.state()["containers"] if each["call"] == call_id]
    return str(container)


# --------------------------------------------------------------------------- calls


def test_a_call_runs_with_its_package_its_secret_and_the_images_variables(plane: Plane, task: Any) -> None:
    result = task.remote({"id": "first"})
    assert (result["id"], result["key"], result["text"]) == ("first", "k", "1 2")
    assert "the task is first" in plane.logs()
    images = plane.state(full=True)["images"].values()
    assert any("RIG_TEXT" in line for lines in images for line in lines)


def test_results_are_fetched_by_id_and_containers_stay_within_their_limit(
    plane: Plane, task: Any, client: modal.Client, latch: Latch
) -> None:
    import modal

    ids = [task.spawn({"id": f"many-{i}", "latch": latch.port}).object_id for i in range(5)]
    until(lambda: len(latch.came) == 2)
    with pytest.raises(TimeoutError):
        modal.FunctionCall.from_id(ids[-1], client=client).get(timeout=0)
    latch.opened.set()
    results = [modal.FunctionCall.from_id(each, client=client).get(timeout=PATIENCE_S) for each in ids]
    assert [result["id"] for result in results] == [f"many-{i}" for i in range(5)]
    assert max(function["peak_containers"] for function in plane.state()["functions"]) <= 2


def test_a_large_argument_takes_the_way_over_a_blob(plane: Plane, task: Any) -> None:
    async def spawn() -> Any:
        return await task.spawn.aio({"id": "large", "padding": "x" * 20_000})

    blobs = plane.state()["rpc_counts"].get("BlobCreate", 0)
    assert asyncio.run(spawn()).get(timeout=PATIENCE_S)["size"] == 20_000
    assert plane.state()["rpc_counts"]["BlobCreate"] == blobs + 1


def test_an_exception_comes_back_with_its_type_after_the_retry(plane: Plane, task: Any) -> None:
    call = task.spawn({"id": "failing", "fail": True})
    with pytest.raises(ValueError, match="planned failure of failing"):
        call.get(timeout=PATIENCE_S)
    found = counted(plane, call.object_id)
    assert (found["attempts"], found["lost"], found["retries"]) == (2, 0, 1)


def test_a_variant_has_containers_of_its_own_and_is_found_by_its_id(
    plane: Plane, task: Any, client: modal.Client, latch: Latch
) -> None:
    import modal

    variant = task.with_options(max_containers=1)
    calls = [variant.spawn({"id": f"variant-{i}", "latch": latch.port}) for i in range(3)]
    until(lambda: latch.came)
    stats = modal.Function.from_id(variant.object_id, client=client).get_current_stats()
    assert (stats.backlog, stats.num_running_inputs) == (2, 1)
    latch.opened.set()
    assert len({call.get(timeout=PATIENCE_S)["pid"] for call in calls}) == 1
    assert variant.object_id != task.object_id


def test_a_timeout_interrupts_the_function_and_is_raised(plane: Plane, task: Any, latch: Latch) -> None:
    import modal

    call = task.with_options(timeout=3, retries=0).spawn({"id": "slow", "latch": latch.port})
    with pytest.raises(modal.exception.FunctionTimeoutError):
        call.get(timeout=PATIENCE_S)
    until((plane.volume("rig") / "slow.finally").exists)
    assert (plane.volume("rig") / "slow.KeyboardInterrupt").exists()


def test_a_preempted_input_cleans_up_commits_and_runs_again(plane: Plane, task: Any, latch: Latch) -> None:
    call = task.spawn({"id": "preempted", "latch": latch.port})
    until(lambda: latch.came)
    assert plane.kill(container_of(plane, call.object_id), "int") == 1
    until(lambda: len(latch.came) == 2)
    latch.opened.set()
    assert call.get(timeout=PATIENCE_S)["id"] == "preempted"
    found = counted(plane, call.object_id)
    assert (found["attempts"], found["lost"], found["retries"]) == (2, 1, 0)
    assert (plane.volume("rig") / "preempted.KeyboardInterrupt").exists()


@pytest.mark.parametrize("action", ["crash", "preempt"])
def test_an_input_that_a_rule_strikes_runs_again(action: str, plane: Plane, task: Any, latch: Latch) -> None:
    plane.faults([{"at": "input", "action": action, "after": 0.1, "contains": f"struck-{action}"}])
    call = task.spawn({"id": f"struck-{action}", "latch": latch.port})
    until(lambda: counted(plane, call.object_id)["lost"])
    latch.opened.set()
    assert call.get(timeout=PATIENCE_S)["id"] == f"struck-{action}"
    assert counted(plane, call.object_id)["lost"] == 1
    assert list(plane.volume("rig").glob("struck-crash.*Interrupt")) == []


def test_a_crashed_input_leaves_nothing_and_runs_again(plane: Plane, task: Any, latch: Latch) -> None:
    call = task.spawn({"id": "crashed", "latch": latch.port})
    until(lambda: latch.came)
    assert plane.kill(container_of(plane, call.object_id)) == 1
    latch.opened.set()
    assert call.get(timeout=PATIENCE_S)["id"] == "crashed"
    assert counted(plane, call.object_id)["lost"] == 1
    assert not list(plane.volume("rig").glob("crashed.*Interrupt"))


def test_a_dropped_output_makes_the_input_run_twice(plane: Plane, task: Any) -> None:
    plane.faults([{"at": "output", "action": "drop_output", "contains": "dropped"}])
    call = task.spawn({"id": "dropped"})
    assert call.get(timeout=PATIENCE_S)["id"] == "dropped"
    assert counted(plane, call.object_id)["attempts"] == 2


def test_a_cancelled_input_is_told_and_its_container_lives_on(plane: Plane, task: Any, latch: Latch) -> None:
    import modal

    only = task.with_options(max_containers=1)
    before = only.remote({"id": "before"})["pid"]
    call = only.spawn({"id": "cancelled", "latch": latch.port})
    until(lambda: latch.came)
    call.cancel()
    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=PATIENCE_S)
    assert only.remote({"id": "after", "write": "something"})["pid"] == before
    assert (plane.volume("rig") / "cancelled.InputCancellation").exists()


def test_cancelling_with_its_container_runs_nothing_more(plane: Plane, task: Any, latch: Latch) -> None:
    import modal

    call = task.spawn({"id": "terminated", "latch": latch.port})
    until(lambda: latch.came)
    call.cancel(terminate_containers=True)
    with pytest.raises(modal.exception.RemoteError):
        call.get(timeout=PATIENCE_S)
    until(lambda: "cancelled" in [dead["why"] for dead in plane.state(full=True)["dead"]])
    assert not list(plane.volume("rig").glob("terminated.*"))


def test_a_function_that_cannot_start_fails_its_inputs(plane: Plane, run_modal: Command, client: modal.Client) -> None:
    import modal

    assert run_modal("deploy", "broken_app.py").returncode == 0
    reason = "this module cannot be imported in a container"
    with pytest.raises(RuntimeError, match=reason):
        modal.Function.from_name("broken", "task", client=client).remote()
    until(lambda: sum(reason in dead["failure"] for dead in plane.state(full=True)["dead"]) == 3)


# --------------------------------------------------------------------------- requests


def test_a_full_queue_is_reported_at_once(plane: Plane, task: Any) -> None:
    import modal

    plane.faults([{"rpc": "FunctionMap", "status": "RESOURCE_EXHAUSTED"}])
    with pytest.raises(modal.exception.ResourceExhaustedError):
        task.spawn({"id": "refused"})


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_request_sent_again_is_one_call(plane: Plane, task: Any, carried_out: bool) -> None:
    calls = sum(plane.state()["inputs"].values())
    plane.faults([{"rpc": "FunctionMap", "status": "UNAVAILABLE", "carried_out": carried_out}])
    assert task.spawn({"id": "again"}).get(timeout=PATIENCE_S)["id"] == "again"
    assert sum(plane.state()["inputs"].values()) == calls + 1


def test_a_request_is_held_as_long_as_its_rule_is_in_force(plane: Plane, task: Any) -> None:
    task.hydrate()
    calls, asked = sum(plane.state()["inputs"].values()), plane.state()["rpc_counts"]["FunctionMap"]
    plane.faults([{"rpc": "FunctionMap", "gathers": 2}])
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(task.remote, {"id": "held"})
        until(lambda: plane.state()["rpc_counts"]["FunctionMap"] > asked)
        assert sum(plane.state()["inputs"].values()) == calls
        plane.faults([])
        assert held.result()["id"] == "held"


def test_an_unknown_app_function_or_secret_is_not_found(client: modal.Client) -> None:
    import modal

    for missing in (
        modal.Function.from_name("nowhere", "task", client=client),
        modal.Function.from_name("rig", "nothing", client=client),
        modal.Secret.from_name("nothing", client=client),
        modal.Volume.from_name("nothing", client=client),
    ):
        with pytest.raises(modal.exception.NotFoundError, match=r"nowhere|nothing"):
            missing.hydrate()


def test_secrets_are_listed(client: modal.Client) -> None:
    import modal

    assert [secret.name for secret in modal.Secret.objects.list(client=client)] == ["rig-secret"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("rig-absent", "Secret 'rig-absent' not found"), ("rig-secret", "missing key(s): RIG_OTHER")],
)
def test_a_deploy_without_its_secret_says_so(run_modal: Command, project: Path, name: str, words: str) -> None:
    (project / "secretive_app.py").write_text(textwrap.dedent(SECRETIVE.format(name=name)))
    refused = run_modal("deploy", "secretive_app.py")
    assert refused.returncode == 1
    assert words in refused.stdout + refused.stderr


def test_without_a_token_nothing_is_answered(run_modal: Command) -> None:
    refused = run_modal("deploy", "rig_app.py", MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="")
    assert refused.returncode == 1
    assert "token" in (refused.stdout + refused.stderr).lower()


# --------------------------------------------------------------------------- apps


def test_a_run_of_a_local_entrypoint_shows_its_logs_and_leaves_nothing(plane: Plane, run_modal: Command) -> None:
    done = run_modal("run", "rig_app.py::show", "--run-id", "r1", "--watch")
    assert "SHOW r1 True from a run" in done.stdout, done.stderr
    assert "the task is from a run" in done.stdout
    apps = plane.state()["apps"]
    assert apps[-1]["state"] == "APP_STATE_STOPPED"
    assert "APP_STATE_DEPLOYED" in [app["state"] for app in apps if app["name"] == "rig"]


def test_a_redeploy_lets_running_inputs_finish(plane: Plane, task: Any, run_modal: Command, latch: Latch) -> None:
    call = task.spawn({"id": "old", "latch": latch.port})
    until(lambda: latch.came)
    assert run_modal("deploy", "rig_app.py").returncode == 0
    new = task.remote({"id": "new"})["pid"]
    latch.opened.set()
    old = call.get(timeout=PATIENCE_S)["pid"]
    assert old != new
    assert counted(plane, call.object_id)["attempts"] == 1
    [app] = [app for app in plane.state()["apps"] if app["state"] == "APP_STATE_DEPLOYED" and app["name"] == "rig"]
    assert (app["version"], app["tags"]) == (2, {"owner": "tests"})


def test_a_module_that_was_not_added_is_missing_in_the_container(plane: Plane, client: modal.Client) -> None:
    import modal

    if plane.isolation != "overlay":
        pytest.skip("only a container with a root of its own lacks what the host has; this needs root on Linux")
    with pytest.raises(ModuleNotFoundError, match="rig_forgotten"):
        modal.Function.from_name("rig", "forgetful", client=client).remote()


# --------------------------------------------------------------------------- volumes


@pytest.mark.parametrize("version", [1, 2])
def test_a_volume_is_written_listed_read_and_emptied_from_outside(
    plane: Plane, client: modal.Client, tmp_path: Path, version: int
) -> None:
    import modal

    volume = modal.Volume.from_name(f"outside-{version}", create_if_missing=True, version=version, client=client)
    (tmp_path / "plan.json").write_text("{}")
    large = os.urandom(9 << 20)  # more than a block
    (tmp_path / "large").write_bytes(large)
    with volume.batch_upload() as batch:
        batch.put_file(tmp_path / "plan.json", "/runs/r1/plan.json")
        batch.put_file(tmp_path / "large", "/runs/r1/deep/large")
    assert sorted(entry.path for entry in volume.listdir("/runs/r1")) == ["runs/r1/deep", "runs/r1/plan.json"]
    sizes = {entry.path: entry.size for entry in volume.iterdir("/", recursive=True) if entry.type.name == "FILE"}
    assert sizes == {"runs/r1/plan.json": 2, "runs/r1/deep/large": len(large)}
    assert b"".join(volume.read_file("runs/r1/deep/large")) == large
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(tmp_path / "plan.json", "/runs/r1/plan.json")
    volume.remove_file("/runs/r1/plan.json")
    with pytest.raises(FileNotFoundError):
        list(volume.read_file("/runs/r1/plan.json"))
    with pytest.raises(modal.exception.NotFoundError):
        volume.listdir("/runs/r2")
    assert plane.state()["volumes"][f"outside-{version}"]["puts"] == 2


def test_a_name_keeps_its_version(client: modal.Client) -> None:
    import modal

    modal.Volume.from_name("old", create_if_missing=True, client=client).hydrate()
    with pytest.raises(modal.exception.InvalidError):
        modal.Volume.from_name("old", version=2, client=client).hydrate()


def test_the_last_writer_wins_and_a_reload_shows_it(plane: Plane, task: Any) -> None:
    if plane.volume_mode != "snapshot":
        pytest.skip("containers share the volume where they have no root of their own")
    one, two = task.with_options(max_containers=1), task.with_options(max_containers=1, timeout=3000)
    for call in [one.spawn({"id": "looking-1"}), two.spawn({"id": "looking-2"})]:
        call.get(timeout=PATIENCE_S)
    before = plane.state()["volumes"]["rig"]["conflicting_overwrites"]
    assert one.remote({"id": "w1", "write": "one"})["same"] == "one"
    assert two.remote({"id": "w2", "write": "two"})["same"] == "two"
    assert plane.state()["volumes"]["rig"]["conflicting_overwrites"] == before + 1
    assert one.remote({"id": "unaware"})["same"] == "one"
    assert one.remote({"id": "aware", "reload": True})["same"] == "two"
    one.remote({"id": "w3", "write": "three"})
    statistics = plane.state()["volumes"]["rig"]
    assert statistics["conflicting_overwrites"] == before + 1
    assert statistics["commit_bytes"] >= len("onetwothree")
    assert (plane.volume("rig") / "same").read_text() == "three"


def test_a_running_input_is_committed_in_the_background(plane: Plane, task: Any, latch: Latch) -> None:
    call = task.spawn({"id": "writing", "early": True, "latch": latch.port})
    until((plane.volume("rig") / "writing.early").exists)
    assert counted(plane, call.object_id)["state"] == "running"
    call.cancel(terminate_containers=True)


def test_a_reload_with_an_open_file_is_refused(plane: Plane, task: Any) -> None:
    if plane.volume_mode != "snapshot":
        pytest.skip("a volume that containers share is never reloaded")
    with pytest.raises(RuntimeError, match="open files"):
        task.with_options(retries=0).remote({"id": "holding", "hold": True})


# --------------------------------------------------------------------------- the server


def test_nothing_runs_where_no_container_may(tmp_path: Path, project: Path) -> None:
    import modal

    with running(tmp_path, max_procs=0, max_pending=1, secrets={"rig-secret": {"RIG_KEY": "k"}}) as plane:
        assert command(plane, project)("deploy", "rig_app.py").returncode == 0
        with open_client(plane) as client:
            task = modal.Function.from_name("rig", "task", client=client)
            call = task.spawn({"id": "queued"})
            with pytest.raises(modal.exception.ResourceExhaustedError, match="1 pending"):
                task.spawn({"id": "one too many"})
            assert plane.state()["inputs"] == {"pending": 1}
            call.cancel()
            with pytest.raises(modal.exception.RemoteError):
                call.get(timeout=PATIENCE_S)


def test_without_a_root_of_its_own_a_container_finds_its_volume_all_the_same(tmp_path: Path) -> None:
    import modal

    project = write_project(tmp_path / "project")
    with running(tmp_path / "plane", isolation="links", secrets={"rig-secret": {"RIG_KEY": "k"}}) as plane:
        assert (plane.isolation, plane.volume_mode) == ("links", "shared")
        assert command(plane, project)("deploy", "rig_app.py").returncode == 0
        with open_client(plane) as client:
            task = modal.Function.from_name("rig", "task", client=client)
            assert task.remote({"id": "linked", "write": "text"})["same"] == "text"
        assert (plane.volume("rig") / "same").read_text() == "text"
    assert not (tmp_path / "project-mount").is_symlink()


def test_no_process_outlives_the_test_that_started_it(tmp_path: Path, latch: Latch) -> None:
    project = write_project(tmp_path / "project")
    script = f"""
        import json, os, subprocess, sys, time
        from pathlib import Path
        from tests.servers.modal import running
        with running(Path({str(tmp_path / "plane")!r}), secrets={{"rig-secret": {{"RIG_KEY": "k"}}}}) as plane:
            env = {{**os.environ, **plane.env}}
            spec = {{"id": "long", "latch": {latch.port}}}
            code = f"import modal; modal.Function.from_name('rig', 'task').spawn({{spec}})"
            for words in (["-m", "modal", "deploy", "rig_app.py"], ["-c", code]):
                subprocess.run([sys.executable, *words], cwd={str(project)!r}, env=env, capture_output=True, check=True)
            while not plane.state()["inputs"].get("running"):
                time.sleep(0.05)
            print(json.dumps([plane.pid, plane.state()["containers"][0]["pid"]]), flush=True)
            time.sleep({PATIENCE_S})
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as test:
        assert test.stdout
        pids = json.loads(test.stdout.readline())
        test.send_signal(signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_misspelt_settings_and_faults_are_refused(plane: Plane) -> None:
    with pytest.raises(TypeError, match="max_process"):
        Settings(**{"max_process": 1})
    with pytest.raises(ValueError, match="volume mode"):
        Settings(volume_mode="shadow")
    with pytest.raises(ValueError, match="no fault"):
        Rule(at="input", action="explode")
    with pytest.raises(ValueError, match="unknown status"):
        plane.faults([{"rpc": "*", "status": "AWAY"}])


def test_no_request_was_without_an_answer(plane: Plane) -> None:
    """Last in this file: what its tests asked for is all there."""
    assert plane.state()["unimplemented"] == {}
