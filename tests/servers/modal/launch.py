"""Becomes one container: takes on the isolation that its plan asks for, then runs its command. Standard library only.

    python -I -S launch.py PLAN.json

"overlay": a mount namespace whose root is an overlay over the host's. The app's files, the volumes and every write stay
inside, and the folders to hide look empty, except for the interpreter's own environment. Needs root on Linux.

"links": the container stays in the host's root. The app's files come first on PYTHONPATH, and the server has made a
symlink at each volume's mount path.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, options)]
    if LIBC.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target} ({kind}): {os.strerror(error)}")


def overlay_root(scratch: str) -> str:
    """A mount namespace of one's own, and in it a root over the host's, with all writes in memory."""
    if LIBC.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", scratch, "tmpfs")
    upper, work, root = (f"{scratch}/{name}" for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        os.makedirs(folder)
    mount("overlay", root, "overlay", 0, f"lowerdir=/,upperdir={upper},workdir={work}")
    return root


def can_overlay() -> bool:
    """Whether this process may build such a root; tried in a child, which the namespace ends with."""
    with tempfile.TemporaryDirectory() as scratch:
        child = os.fork()
        if child == 0:
            try:
                overlay_root(scratch)
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def isolate(plan: dict[str, Any]) -> None:
    root = overlay_root(plan["scratch"])
    for folder in ("/proc", "/sys", "/dev"):
        mount(folder, root + folder, None, MS_BIND | MS_REC)
    for folder in plan["hide"]:
        if os.path.isdir(root + folder):
            mount("tmpfs", root + folder, "tmpfs")
            if Path(plan["show"]).is_relative_to(folder):
                bind(plan["show"], root + plan["show"])
    shutil.copytree(plan["files"], root, dirs_exist_ok=True, symlinks=True)
    for volume in plan["volumes"]:
        bind(volume["folder"], root + volume["path"])
        if volume["read_only"]:
            mount("none", root + volume["path"], None, MS_BIND | MS_REMOUNT | MS_RDONLY)
    bind(plan["folder"], root + plan["folder"])
    os.chroot(root)


def bind(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    mount(source, target, None, MS_BIND)


def stay(plan: dict[str, Any]) -> None:
    plan["work_folder"] = f"{plan['files']}/root"
    plan["variables"]["PYTHONPATH"] = os.pathsep.join([plan["work_folder"], plan["variables"]["PYTHONPATH"]])


def main(plan_file: str) -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no container outlives the server
    plan = json.loads(Path(plan_file).read_text())
    (isolate if plan["isolation"] == "overlay" else stay)(plan)
    os.makedirs(plan["work_folder"], exist_ok=True)
    os.chdir(plan["work_folder"])
    os.execve(plan["command"][0], plan["command"], plan["variables"])


if __name__ == "__main__":
    main(sys.argv[1])
