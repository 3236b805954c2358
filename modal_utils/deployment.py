"""What there is on Modal, by name: the app, its functions, its volume, its secrets, the image and the sources in it.

Changing a name here and deploying again makes another installation beside the old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import modal

from utils.errors import Unreachable, UsageError

APP = "prompt-optimizer-benchmark"
RUN_TASK, PREFLIGHT, COLLECT = "run_task", "preflight", "collect"  # functions of the app
VOLUME = "optimizer-benchmarks"
MOUNT = "/results"  # where the volume is in a container
LLM_SECRET = "llm-api-keys"  # the providers' keys, under the names that litellm reads
OPIK_SECRET = "opik-credentials"

ROOT = Path(__file__).parents[1]
SOURCES = ("benchmark_config", "benchmark_task", "modal_utils", "optimizers", "utils")  # besides benchmark_worker
RECIPE = ("constraints.txt", "pyproject.toml")  # what the image is made from
CONSTRAINTS = "/constraints.txt"  # in the image

LONGEST_S = 24 * 3600  # what Modal gives one input at most
MARGIN_S = 120  # of that, kept for writing down that a task took too long

DEPLOY = "modal deploy benchmark_worker.py"
SET_TOKEN = "modal token new"


def image() -> modal.Image:
    """The packages of pyproject.toml at the versions of the constraints file; our own sources are added at start."""
    made = (
        modal.Image.debian_slim()
        .add_local_file(ROOT / "constraints.txt", CONSTRAINTS, copy=True)
        .pip_install_from_pyproject(
            str(ROOT / "pyproject.toml"), ["tpe", "tracing"], extra_options=f"--constraint {CONSTRAINTS}"
        )
    )
    for name in RECIPE:  # so that a container can tell what it was made from
        made = made.add_local_file(ROOT / name, f"/root/{name}")
    return made.add_local_python_source(*SOURCES)


def volume() -> modal.Volume:
    """The volume that all runs are on. Version 2: no limit of files, many writers at once."""
    return modal.Volume.from_name(VOLUME, create_if_missing=True, version=2)


def sources(root: Path = ROOT) -> Iterator[Path]:
    """Every file of our own that a container gets: the code, and the recipe of its image."""
    yield from (root / name for name in RECIPE)
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
    """Modal's own errors as one line with the command that mends it; what may pass by itself as Unreachable."""
    try:
        yield
    except modal.exception.AuthError:
        raise UsageError(f"Modal knows no token of this machine; run `{SET_TOKEN}`") from None
    except modal.exception.NotFoundError as error:
        if "app" in str(error).lower() or "function" in str(error).lower():
            raise UsageError(f"the app {APP!r} is not deployed; run `{DEPLOY}`") from None
        raise UsageError(f"Modal does not know it: {error}") from None
    except modal.exception.ConnectionError as error:
        raise Unreachable(f"Modal cannot be reached: {_line(error)}; check the network") from None
    except (modal.exception.ServiceError, modal.exception.InternalError) as error:
        raise Unreachable(f"Modal answers {type(error).__name__}: {_line(error)}; try again") from None
    except modal.exception.Error as error:
        raise UsageError(f"Modal answers {type(error).__name__}: {_line(error)}; try again") from None
    except Exception as error:  # of whatever kind the layers below Modal's client raise; others fly on
        if not _is_of_the_way(error):
            raise
        raise Unreachable(f"Modal cannot be reached: {type(error).__name__}: {_line(error)}; try again") from None


def _is_of_the_way(error: Exception) -> bool:
    """True for what the transfer of a file may fail with: it goes beside Modal's own exchanges, and has its errors."""
    import aiohttp

    return isinstance(error, aiohttp.ClientError | ConnectionError | TimeoutError)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def link(object_id: str) -> str:
    """The page of a call, a function or an app; needs no request, and no name of a workspace."""
    return f"https://modal.com/id/{object_id}"
