"""What one can choose about a control plane."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ISOLATIONS = ("auto", "overlay", "links")
VOLUME_MODES = ("snapshot", "shared")


@dataclass
class Settings:
    """The choices, each with its default; they travel to the server's process as JSON."""

    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # name -> variables, there from the start
    python: str = sys.executable  # of the containers: has `modal`, and what the image would have installed
    max_procs: int = 4  # containers alive at once, over all functions; 0: inputs queue and nothing runs
    isolation: str = "auto"  # overlay: a root of its own; links: the host's root, volumes symlinked to their paths
    hide: Sequence[str] = ()  # folders that look empty in a container with a root of its own
    volume_mode: str = "snapshot"  # a container's volume is a copy until commit and reload; shared: the volume itself
    background_commit_s: float = 5.0  # between commits for running inputs; 0: never
    scaledown_s: float = 3.0  # idle seconds before a container leaves, if its function does not say less
    grace_s: float = 5.0  # from SIGINT to SIGKILL
    crash_retries: int = 8  # times that an input lost with its container runs again
    max_pending: int = 0  # inputs that may wait for a function; 0: any number
    pass_env: Sequence[str] = ()  # variables of this process that containers get
    env: Mapping[str, str] = field(default_factory=dict)  # more variables for containers
    faults: Sequence[Mapping[str, Any]] = ()  # rules in force from the start

    def __post_init__(self) -> None:
        if self.isolation not in ISOLATIONS:
            raise ValueError(f"unknown isolation {self.isolation!r}; known: {', '.join(ISOLATIONS)}")
        if self.volume_mode not in VOLUME_MODES:
            raise ValueError(f"unknown volume mode {self.volume_mode!r}; known: {', '.join(VOLUME_MODES)}")
