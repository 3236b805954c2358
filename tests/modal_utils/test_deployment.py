"""What is deployed is what a container needs: every module it imports, every package, a hash that says which code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import aiohttp
import modal
import pytest

from benchmark_task import code_of
from modal_utils.coordinator import refuse_other_code
from modal_utils.deployment import APP, COLLECT, CONSTRAINTS, PREFLIGHT, ROOT, RUN_TASK, code_hash, explained, sources
from tests.modal_utils.command import Cloud, checkout, client_of, cloud
from tests.test_layering import imports, modules
from utils.errors import Unreachable, UsageError
from utils.records import TaskSpec
from utils.serialization import encode

SPEC = TaskSpec("gsm8k", "hill_climb", "sim/standard", 1)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud(tmp_path_factory.mktemp("plane"), scaledown_s=20.0) as deployed:
        yield deployed


def dotted(path: Path, root: Path = ROOT) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(name: str) -> set[str]:
    """Every module of the project that this one imports sooner or later, itself among them."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in found or module not in modules():
            continue
        found.add(module)
        package = module.rpartition(".")[0]
        waiting += [package, *(target for target, _ in imports(module))]
    return found


def test_every_module_that_a_container_imports_is_shipped() -> None:
    needed = imported("benchmark_worker")
    assert {"modal_utils.worker_core", "benchmark_task", "utils.llm.litellm_engine", "utils.llm.simulated"} <= needed
    assert not needed - set(map(dotted, sources()))


def test_no_module_of_this_machine_or_of_the_tests_is_shipped() -> None:
    tops = {dotted(path).partition(".")[0] for path in sources() if path.suffix == ".py"}
    assert tops == {"benchmark_worker", "benchmark_config", "benchmark_task", "modal_utils", "optimizers", "utils"}
    assert not [name for name in imported("benchmark_worker") if name.partition(".")[0] in ("local", "tests")]


def test_a_container_has_these_files_and_no_other_python_file_of_ours(deployed: Cloud) -> None:
    state = deployed.plane.state(full=True)
    (run_task,) = (function["id"] for function in state["functions"] if function["name"] == RUN_TASK)
    mounted = {Path(name).relative_to("/root") for name in state["files"][run_task] if name.startswith("/root/")}
    ours = {path.relative_to(ROOT) for path in sources()}
    assert {path for path in mounted if path.suffix == ".py"} == {path for path in ours if path.suffix == ".py"}
    assert ours <= mounted


def test_the_app_has_its_three_functions(deployed: Cloud) -> None:
    (app,) = deployed.plane.state()["apps"]
    assert (app["name"], set(app["functions"])) == (APP, {RUN_TASK, PREFLIGHT, COLLECT})


def test_the_image_has_the_projects_packages_at_the_versions_of_the_constraints(deployed: Cloud) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = max(deployed.plane.state(full=True)["images"].values(), key=len)
    (install,) = (line for line in lines if "pip install" in line and CONSTRAINTS in line)
    assert f"--constraint {CONSTRAINTS}" in install
    assert lines.index("COPY . /") < lines.index(install), "the constraints are there before they are asked for"
    asked = set(re.findall(r"'([^']+)'", install))
    assert asked == {*project["dependencies"], *extras["tpe"], *extras["tracing"]}


def test_every_package_of_the_image_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["tpe"], *extras["tracing"]]
    assert not packages(wanted) - packages((ROOT / "constraints.txt").read_text().splitlines())


def packages(lines: Iterable[str]) -> set[str]:
    """The names in lines of requirements, in their usual form."""
    return {re.sub("[-_.]+", "-", re.split(r"[<>=\[ ]", line)[0]).lower() for line in lines}


# --------------------------------------------------------------------------- which code it is


def test_the_hash_is_the_same_here_and_in_a_container(deployed: Cloud) -> None:
    import modal

    with client_of(deployed.plane):
        there = modal.Function.from_name(APP, PREFLIGHT).remote([], {}, "", [encode(SPEC)])
    assert there["code_hash"] == code_hash()
    assert there["code"] == code_of(SPEC)
    assert (there["missing"], there["problems"]) == ({}, [])


def test_a_change_of_what_the_image_is_made_from_is_another_hash() -> None:
    assert {"constraints.txt", "pyproject.toml"} <= {path.name for path in sources()}


@pytest.mark.parametrize(
    ("error", "is_passing"),
    [
        (modal.exception.ConnectionError("refused"), True),
        (modal.exception.ServiceError("unavailable"), True),
        (modal.exception.InternalError("broken"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (ConnectionResetError("reset"), True),
        (modal.exception.AuthError("no token"), False),
        (modal.exception.PermissionDeniedError("not yours"), False),
        (modal.exception.NotFoundError("gone"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_pass_by_itself_is_told_from_what_will_not(error: Exception, is_passing: bool) -> None:
    with pytest.raises(UsageError) as raised, explained():
        raise error
    assert isinstance(raised.value, Unreachable) == is_passing


def test_what_is_no_error_of_modal_stays_what_it_is() -> None:
    with pytest.raises(FileNotFoundError), explained():
        raise FileNotFoundError("results/x")


def test_deployed_code_that_would_decide_other_results_is_refused() -> None:
    code = dict(code_of(SPEC))
    refuse_other_code([SPEC], {**code, "optimizers.of_another_task": "other"})
    for change in (
        {**code, "optimizers.hill_climb": "other"},
        {k: v for k, v in code.items() if k != "benchmark_task"},
    ):
        with pytest.raises(UsageError, match=r"decides the results, .*`modal deploy benchmark_worker\.py`"):
            refuse_other_code([SPEC], change)


def test_the_hash_is_the_same_in_another_folder_and_changes_with_every_source(tmp_path: Path) -> None:
    copy = checkout(tmp_path / "copy")
    same = code_hash(copy)
    seen = {same}
    for path in sources(copy):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        seen.add(code_hash(copy))
        path.write_bytes(content)
    assert len(seen) == 1 + len(list(sources(copy)))
    assert code_hash(copy) == same
    assert checkout(tmp_path / "other") != copy
    assert code_hash(tmp_path / "other") == same


def test_the_hash_changes_with_a_name_and_not_with_what_is_not_shipped(tmp_path: Path) -> None:
    copy = checkout(tmp_path / "copy")
    before = code_hash(copy)
    (copy / "README.md").write_text("other")
    (copy / "local" / "new.py").write_text("")
    assert code_hash(copy) == before
    (copy / "utils" / "ledger.py").rename(copy / "utils" / "ledgers.py")
    assert code_hash(copy) != before
