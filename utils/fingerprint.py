"""Which program a result is of: the hashes of the sources that decide it, by module.

What a module decides together with: whatever it imports of `DECISIVE`, and of its own folder if it is a user's. The
rest of the harness moves calls and files about; a change there changes no score.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

DECISIVE = ("optimizers", "utils.metrics", "utils.dataset_specs", "utils.prompt")
ROOT = Path(__file__).parents[1]
DIGITS = 16


def sources_of(modules: Iterable[str]) -> Mapping[str, str]:
    """The hash of the source of each of these modules, and of each that it decides together with, by name."""
    found: dict[str, str] = {}
    left = [(name, _home(name)) for name in modules]
    while left:
        name, home = left.pop()
        path = _path(name)
        if name in found or path is None:
            continue
        found[name], imported = _read(path)
        left += [(other, home) for other in imported if _decides(other, home)]
    return found


def source_of(*functions: Callable[..., object]) -> str:
    """The hash of the source of some functions, where their module holds much else."""
    return _hash("".join(map(inspect.getsource, functions)).encode())


def _home(name: str) -> Path | None:
    """The folder that a user's own modules are in; None for a module of the harness."""
    path = _path(name)
    if path is None or _is_ours(name):
        return None
    return path.parents[name.count(".") + (path.name == "__init__.py")]


def _is_ours(name: str) -> bool:
    return (ROOT / name.partition(".")[0]).is_dir() and name.partition(".")[0] in ("utils", "optimizers")


def _decides(name: str, home: Path | None) -> bool:
    if any(name == place or name.startswith(f"{place}.") for place in DECISIVE):
        return True
    path = _path(name) if home and not _is_ours(name) else None
    return path is not None and home is not None and home in path.parents and "site-packages" not in path.parts


@cache
def _path(name: str) -> Path | None:
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file) if file and file.endswith(".py") else None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):  # `from x import y`, where y is no module
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _read(path: Path) -> tuple[str, tuple[str, ...]]:
    """The hash of a file, and what it imports."""
    content = path.read_bytes()
    imported: dict[str, None] = {}
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            imported.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported[node.module] = None
            imported.update(dict.fromkeys(f"{node.module}.{alias.name}" for alias in node.names))
    return _hash(content), tuple(imported)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]
