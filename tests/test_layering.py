"""The arrows of the house, read from the imports: down, and on one line to the left.

`ROWS` is the house from its foundations up. A module may import what stands in a lower row, or beside it in its own
row as long as nothing imports in a circle. A heavy package has owners, and is imported on its first use.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("run_benchmark", "benchmark_worker", "check_results", "benchmark_task", "benchmark_config")
PACKAGES = ("utils", "optimizers", "local", "modal_utils")

ROWS: tuple[tuple[str, ...], ...] = (
    ("utils.errors",),
    ("utils.serialization", "utils.interrupts"),
    ("utils.prompt", "utils.records"),
    (
        "utils.metrics",
        "utils.validation",
        "utils.values",
        "utils.redaction",
        "utils.disk",
        "utils.fingerprint",
        "utils.imports",
    ),
    ("utils.dataset_specs",),
    ("utils.llm", "utils.journal", "utils.ledger", "utils.archive"),
    ("utils.door", "utils.bills"),
    ("utils.report", "utils.tracing"),
    ("optimizers",),
    ("benchmark_config",),
    ("benchmark_task",),
    ("local", "modal_utils"),
    ("run_benchmark", "benchmark_worker", "check_results"),
)

OWNERS: dict[str, tuple[str, ...]] = {
    "litellm": ("utils.llm.litellm_engine",),
    "opik": ("utils.tracing.client",),
    "datasets": ("utils.dataset_specs.base",),
    "pandas": ("utils.report.frame",),
    "modal": ("modal_utils", "benchmark_worker", "check_results"),
    "deap": ("optimizers.evolutionary_optimizer",),
    "optuna": ("optimizers.surrogates",),
    "numpy": ("optimizers.surrogates",),
    "rouge_score": ("utils.metrics.rouge_l",),
    "sacrebleu": ("utils.metrics.bleu",),
    "rapidfuzz": ("utils.metrics.levenshtein_ratio", "optimizers.text_operators"),
}

# modules that say at their top what they are for: importing them is the use
EAGER = {"modal": ("modal_utils", "benchmark_worker", "check_results")}


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    paths = [ROOT / f"{name}.py" for name in TOPS]
    for package in PACKAGES:
        paths += sorted((ROOT / package).rglob("*.py"))
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths if path.exists()}
    return {name.removesuffix(".__init__"): path for name, path in dotted.items()}


@cache
def imports(name: str) -> tuple[tuple[str, bool], ...]:
    """What a module imports, and whether it does so when it is imported itself."""
    return tuple(_walk(ast.parse(modules()[name].read_text(encoding="utf-8")), name, at_once=True))


def _walk(node: ast.AST, name: str, at_once: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name} imports relatively; write the whole name"
            submodules = [f"{child.module}.{alias.name}" for alias in child.names]
            named = [full for full in submodules if full in modules()]
            yield from ((full, at_once) for full in named or [child.module or ""])
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue  # for the type checker alone: nothing is imported
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, name, at_once and not later)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def row_of(name: str) -> int:
    found = [row for row, places in enumerate(ROWS) if any(is_in(name, place) for place in places)]
    assert found, f"{name} has no place in the house: add it to ROWS"
    return found[0]


def arrows(*, at_once: bool = False) -> Iterator[tuple[str, str]]:
    """Every import of one module of the project by another; packages that hold no code aside."""
    for name in modules():
        for target, first in imports(name):
            if target in modules() and target != name and (first or not at_once):
                yield name, target


HOUSED = [name for name in modules() if name not in PACKAGES]


@pytest.mark.parametrize("name", HOUSED)
def test_imports_point_down(name: str) -> None:
    up = [target for source, target in arrows() if source == name and row_of(target) > row_of(name)]
    assert not up


def test_nothing_imports_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in arrows(at_once=True):
        graph.setdefault(source, set()).add(target)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("local", ("modal_utils",)),
        ("modal_utils", ("local",)),
        ("optimizers", ("utils.llm", "local", "modal_utils", "utils.dataset_specs", "benchmark_task", "tests")),
        ("utils.llm.simulated", ("optimizers", "utils.dataset_specs")),
        ("utils.metrics", ("utils.llm",)),
        ("utils", ("tests",)),
    ],
)
def test_who_never_imports_whom(package: str, banned: tuple[str, ...]) -> None:
    crossed = [
        (name, target)
        for name in modules()
        if is_in(name, package)
        for target, _ in imports(name)
        if any(is_in(target, other) for other in banned)
    ]
    assert not crossed


def test_only_its_connector_knows_the_simulated_models() -> None:
    inside = "utils.llm.simulated"
    users = {name for name in modules() for target, _ in imports(name) if is_in(target, inside)}
    assert {name for name in users if not is_in(name, inside)} <= {
        "utils.llm.connect",
        "benchmark_task",
        "local.catalogue",
    }


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_is_imported_by_its_owners_alone(package: str) -> None:
    users = {name for name in modules() for target, _ in imports(name) if is_in(target, package)}
    assert not [name for name in users if not any(is_in(name, owner) for owner in OWNERS[package])]


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_is_imported_on_its_first_use(package: str) -> None:
    eager = {name for name in modules() for target, at_once in imports(name) if at_once and is_in(target, package)}
    assert not [name for name in eager if not any(is_in(name, place) for place in EAGER.get(package, ()))]


def test_no_file_hides_a_package() -> None:
    names = {path.stem for path in modules().values()} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not names & {"datasets", "modal", "opik", "litellm", "numpy", "optuna", "rich", "typer", "yaml"}


# --------------------------------------------------------------------------- in a process of its own

REPORT = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"


def loaded_by(code: str) -> set[str]:
    """The packages that a process has loaded after running this."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import run_benchmark",
        "import run_benchmark; run_benchmark.cli(['--help'])",
        "import check_results; check_results.cli(['--help'])",
        "import benchmark_task",
        "import local.session",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str) -> None:
    heavy = set(OWNERS) - ({"modal"} if "check_results" in code else set())
    loaded = loaded_by(code)
    assert not loaded & heavy
    assert "utils" in loaded


def test_help_loads_no_part_of_the_benchmark() -> None:
    loaded = loaded_by("import run_benchmark; run_benchmark.cli(['--help'])")
    assert not loaded & {"benchmark_task", "benchmark_config", "optimizers", "local", "yaml"}
