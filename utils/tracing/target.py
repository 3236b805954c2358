"""Where traces go, decided once and without opik: Opik's own variables and config file, one look whether it answers.

The order is Opik's: environment, then the `[opik]` section of the file that OPIK_CONFIG_PATH names (`~/.opik.config`),
then defaults. The key is in no record, no message and no representation of a target.
"""

from __future__ import annotations

import base64
import configparser
import importlib.util
import json
import math
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from utils.errors import UsageError

CLOUD = "https://www.comet.com/opik/api/"
CONFIG_FILE = "~/.opik.config"
WORKSPACE = "default"
PROJECT = "prompt-optimizer-benchmark"
PROBE_S = 2.0
FLUSH_S = 10.0
HOW = "set OPIK_API_KEY and OPIK_WORKSPACE (Opik cloud), or OPIK_URL_OVERRIDE (a self-hosted server, .../api/)"


@dataclass(frozen=True)
class Target:
    """An Opik server, and the place on it."""

    url: str  # ends in a slash
    workspace: str = WORKSPACE
    project: str = PROJECT
    api_key: str | None = field(default=None, repr=False)
    check_tls: bool = True
    flush_s: float = FLUSH_S  # that the end of a run, or of a container, waits for what is left to be sent

    @property
    def name(self) -> str:
        """The place, as people read it."""
        return f"{self.url} workspace {self.workspace} project {self.project}"


@dataclass(frozen=True)
class Decision:
    """Whether traces are sent: to `target`, or nowhere. `line` says it, and why."""

    target: Target | None
    line: str


def read_target(environ: Mapping[str, str]) -> Target | None:
    """What Opik's variables and config file say; None where neither names a server or a key, or tracing is disabled."""
    settings = {**_config_file(environ), **_variables(environ)}
    if settings.get("track_disable", "").lower() in ("1", "true", "yes", "on"):
        return None
    url, key = settings.get("url_override", ""), settings.get("api_key", "")
    if not url and not key:
        return None
    return Target(
        (url or CLOUD).rstrip("/") + "/",
        settings.get("workspace") or WORKSPACE,
        settings.get("project_name") or PROJECT,
        key or None,
        settings.get("check_tls_certificate", "true").lower() not in ("0", "false", "no", "off"),
        _seconds(settings.get("default_flush_timeout") or str(FLUSH_S)),
    )


def _seconds(text: str) -> float:
    try:
        if math.isfinite(seconds := float(text)) and seconds >= 0:
            return seconds
    except ValueError:
        pass
    raise UsageError(f"OPIK_DEFAULT_FLUSH_TIMEOUT {text[:200]!r} is no number of seconds; give one, or leave it out")


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    prefix = "OPIK_"
    named = {name.upper(): value.strip() for name, value in environ.items()}
    return {name.removeprefix(prefix).lower(): value for name, value in named.items() if name[:5] == prefix and value}


def _config_file(environ: Mapping[str, str]) -> dict[str, str]:
    path = Path(environ.get("OPIK_CONFIG_PATH", "").strip() or CONFIG_FILE).expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        # not the parser's own words: they quote the line, which may be the key
        message = f"cannot read Opik's config file {str(path)!r}: {type(error).__name__}; mend or remove it"
        raise UsageError(message) from None
    return {name: value.strip() for name, value in parser.items("opik")} if parser.has_section("opik") else {}


def decide(
    wanted: bool | None,
    environ: Mapping[str, str],
    probe: Callable[[Target], str] | None = None,
) -> Decision:
    """On or off, with one line that says so. `wanted`: demanded, refused, or (None) on where it is configured.

    Raises UsageError where tracing was demanded and cannot be had. Costs nothing without configuration, else at most
    two seconds.
    """
    if wanted is False:
        return Decision(None, "tracing: off (--no-tracing)")
    target = read_target(environ)
    if target is None:
        return _off(wanted, "not configured", HOW)
    if target.url == CLOUD and not target.api_key:
        return _off(wanted, "OPIK_API_KEY is not set", "set it, or OPIK_URL_OVERRIDE for a server of your own")
    if importlib.util.find_spec("opik") is None:
        return _off(wanted, "the package opik is not installed", "pip install opik")
    if fault := (probe or is_there)(target):
        return _off(wanted, fault, "check OPIK_URL_OVERRIDE, or send the traces later with --push-traces")
    return Decision(target, f"tracing: on, to {target.name}")


def _off(wanted: bool | None, reason: str, way_out: str) -> Decision:
    if wanted:
        raise UsageError(f"--tracing cannot be kept: {reason}; {way_out}")
    return Decision(None, f"tracing: off ({reason}); {way_out}")


def is_there(target: Target, timeout_s: float = PROBE_S) -> str:
    """Empty if an Opik server answers there, else what is wrong, found within the time.

    On a thread of its own: a look-up of a name, or a server that sends a byte now and then, knows no time limit.
    """
    found: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=lambda: found.put(_ping(target, timeout_s)), daemon=True).start()
    try:
        return found.get(timeout=timeout_s)
    except Empty:
        return f"{target.url} did not answer in {timeout_s:g} s"


def _ping(target: Target, timeout_s: float) -> str:
    url = f"{target.url}is-alive/ping"
    try:
        context = None if target.check_tls else ssl._create_unverified_context()
        with urllib.request.urlopen(url, timeout=timeout_s, context=context) as reply:
            body = json.loads(reply.read(10_000))
    except urllib.error.HTTPError as error:
        error.close()
        return f"{url} answers {error.code} {error.reason}"
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        return f"{url}: {' '.join(str(reason).split()) or type(error).__name__}"
    except ValueError as error:
        # a page in place of JSON: the web interface's address without /api, or no address at all
        return f"{url} is not the ping of an Opik server ({type(error).__name__}); its address ends in /api/"
    except Exception as error:  # http.client has errors that are neither; a probe never raises
        return f"{url}: {type(error).__name__}"
    if not isinstance(body, dict) or not body.get("healthy"):
        return f"{url} says that it is not healthy"
    return ""


# --------------------------------------------------------------------------- links


def optimization_link(target: Target, optimization_id: str, dataset_id: str) -> str:
    """Leads to a task's optimization in the web pages, whatever their addresses are in that release."""
    return _link(target, "optimizations", {"optimization_id": optimization_id, "dataset_id": dataset_id})


def experiment_link(target: Target, experiment_id: str, dataset_id: str) -> str:
    """Leads to a trial's experiment."""
    return _link(target, "experiments", {"experiment_id": experiment_id, "dataset_id": dataset_id})


def _link(target: Target, kind: str, names: Mapping[str, str]) -> str:
    path = base64.b64encode(target.url.encode()).decode()
    query = urllib.parse.urlencode({**names, "path": path, "workspace_name": target.workspace})
    return f"{target.url}v1/session/redirect/{kind}?{query}"
