"""What there is on Modal, by name: the app, its functions, its volume, its secrets, the image and the sources in it.

Changing a name here and deploying again makes another installation beside the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import modal

from utils.errors import UsageError

APP = "prompt-optimizer-benchmark"
RUN_TASK, PREFLIGHT, COLLECT = "run_task", "preflight", "collect"  # functions of the app
VOLUME = "optimizer-benchmarks"
MOUNT = "/results"  # where the volume is in a container
LLM_SECRET = "llm-api-keys"  # the providers' keys, under the names that litellm reads
OPIK_SECRET = "opik-credentials"

ROOT = Path(__file__).parents[1]
SOURCES = ("benchmark_config", "benchmark_task", "modal_utils", "optimizers", "utils")  # besides benchmark_worker
CONSTRAINTS = "/constraints.txt"  # in the image

LONGEST_S = 24 * 3600  # what Modal gives one input at most
MARGIN_S = 120  # of that, kept for writing down that a task took too long

DEPLOY = "modal deploy benchmark_worker.py"
SET_TOKEN = "modal token new"


def image() -> modal.Image:
    """The packages of pyproject.toml at the versions of the constraints file; our own sources are added at start."""
    return (
        modal.Image.debian_slim()
        .add_local_file(ROOT / "constraints.txt", CONSTRAINTS, copy=True)
        .pip_install_from_pyproject(
            str(ROOT / "pyproject.toml"), ["tpe", "tracing"], extra_options=f"--constraint {CONSTRAINTS}"
        )
        .add_local_python_source(*SOURCES)
    )


def volume() -> modal.Volume:
    """The volume that all runs are on. Version 2: no limit of files, many writers at once."""
    return modal.Volume.from_name(VOLUME, create_if_missing=True, version=2)


def sources(root: Path = ROOT) -> Iterator[Path]:
    """Every file of our own that a container gets."""
    yield root / "benchmark_worker.py"
    for name in SOURCES:
        package = root / name
        yield from sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]


def code_hash(root: Path = ROOT) -> str:
    """A hash of what a container runs: equal here and there as long as what is deployed is what is checked out."""
    digest = hashlib.sha256()
    for path in sources(root):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# --------------------------------------------------------------------------- words


@contextmanager
def explained() -> Iterator[None]:
    """Modal's own errors as one line with the command that mends it."""
    try:
        yield
    except modal.exception.AuthError:
        raise UsageError(f"Modal knows no token of this machine; run `{SET_TOKEN}`") from None
    except modal.exception.NotFoundError as error:
        if "app" in str(error).lower() or "function" in str(error).lower():
            raise UsageError(f"the app {APP!r} is not deployed; run `{DEPLOY}`") from None
        raise UsageError(f"Modal does not know it: {error}") from None
    except modal.exception.ConnectionError as error:
        raise UsageError(f"Modal cannot be reached: {' '.join(str(error).split())}; check the network") from None
    except modal.exception.Error as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"Modal answers {reason}; try again: no task is submitted twice") from None


def link(object_id: str) -> str:
    """The page of a call, a function or an app; needs no request, and no name of a workspace."""
    return f"https://modal.com/id/{object_id}"
