"""On or off is decided once, by Opik's own configuration and one short look; the key is shown nowhere."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.servers.opik_server import OpikServer
from tests.waiting import PATIENCE_S, ended
from utils.errors import UsageError
from utils.tracing.target import (
    CLOUD,
    PROJECT,
    Target,
    decide,
    experiment_link,
    is_there,
    optimization_link,
    read_target,
)

ROOT = Path(__file__).parents[3]


def config(folder: Path, text: str) -> dict[str, str]:
    (folder / "opik.config").write_text(text)
    return {"OPIK_CONFIG_PATH": str(folder / "opik.config")}


def test_without_configuration_it_is_off_and_says_how_it_is_switched_on(tmp_path: Path) -> None:
    decision = decide(None, config(tmp_path, ""))
    assert decision.target is None
    assert "OPIK_API_KEY and OPIK_WORKSPACE" in decision.line
    assert "OPIK_URL_OVERRIDE" in decision.line
    assert "\n" not in decision.line


def test_variables_come_before_the_file_and_the_file_before_defaults(tmp_path: Path) -> None:
    environ = config(tmp_path, "[opik]\nurl_override = http://file/api\nworkspace = theirs\napi_key = 50%\n")
    assert read_target(environ) == Target("http://file/api/", "theirs", PROJECT, "50%")
    assert read_target({**environ, "OPIK_URL_OVERRIDE": "http://env/api/", "OPIK_PROJECT_NAME": "p"}) == Target(
        "http://env/api/", "theirs", "p", "50%"
    )


def test_a_key_alone_means_the_cloud(tmp_path: Path) -> None:
    found = read_target({**config(tmp_path, ""), "OPIK_API_KEY": "k"})
    assert found
    assert (found.url, found.workspace, found.check_tls) == (CLOUD, "default", True)


def test_how_long_the_end_of_a_run_waits_is_opik_s_own_setting(tmp_path: Path) -> None:
    environ = {**config(tmp_path, "[opik]\ndefault_flush_timeout = 20\n"), "OPIK_API_KEY": "k"}
    found = [read_target({**environ, **more}) for more in ({}, {"OPIK_DEFAULT_FLUSH_TIMEOUT": "0.5"})]
    assert [target.flush_s for target in found if target] == [20, 0.5]
    for text in ("soon", "-1", "nan", "inf"):
        with pytest.raises(UsageError, match=f"OPIK_DEFAULT_FLUSH_TIMEOUT '{text}' is no number of seconds"):
            read_target({**environ, "OPIK_DEFAULT_FLUSH_TIMEOUT": text})


def test_opik_s_own_switch_is_heeded(tmp_path: Path) -> None:
    environ = {**config(tmp_path, ""), "OPIK_API_KEY": "k", "OPIK_TRACK_DISABLE": "true"}
    assert read_target(environ) is None


def test_the_key_is_in_no_representation_and_no_message(tmp_path: Path) -> None:
    environ = {**config(tmp_path, ""), "OPIK_API_KEY": "hush", "OPIK_URL_OVERRIDE": "http://127.0.0.1:9/api"}
    decision = decide(None, environ)
    assert "hush" not in f"{decision} {read_target(environ)!r}"
    with pytest.raises(UsageError) as caught:
        read_target(config(tmp_path, "[opik]\nhush\n"))
    assert "hush" not in str(caught.value)


def test_demanded_tracing_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not configured; set OPIK_API_KEY"):
        decide(True, config(tmp_path, ""))
    with pytest.raises(UsageError, match="cannot be kept: down; "):
        decide(True, {**config(tmp_path, ""), "OPIK_API_KEY": "k"}, probe=lambda target: "down")


def test_refused_tracing_does_not_look() -> None:
    decision = decide(False, {"OPIK_API_KEY": "k"}, probe=lambda target: pytest.fail("looked"))
    assert (decision.target, decision.line) == (None, "tracing: off (--no-tracing)")


def test_a_server_that_answers_switches_it_on(tmp_path: Path, server: OpikServer) -> None:
    decision = decide(None, {**config(tmp_path, ""), "OPIK_URL_OVERRIDE": server.url})
    assert decision.target == Target(server.url)
    assert server.url in decision.line


def test_a_cloud_without_a_key_is_off(tmp_path: Path) -> None:
    decision = decide(None, {**config(tmp_path, ""), "OPIK_URL_OVERRIDE": CLOUD}, probe=lambda target: "")
    assert decision.target is None
    assert "OPIK_API_KEY is not set" in decision.line


# --------------------------------------------------------------------------- the look


@pytest.fixture
def silent() -> Iterator[str]:
    """Accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_that_never_answers_costs_the_time_it_is_given(silent: str) -> None:
    said = ended(lambda: is_there(Target(silent), 0.3))
    assert "did not answer in 0.3 s" in said or "timed out" in said


def test_nobody_there_is_seen_at_once() -> None:
    assert "refused" in ended(lambda: is_there(Target("http://127.0.0.1:9/api/"), 10 * PATIENCE_S))


@pytest.mark.parametrize("url", ["nonsense/", "http://", "http://127.0.0.1:notaport/api/", "file:///etc/hostname/"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    assert url in is_there(Target(url))


def test_a_web_page_is_no_server() -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as page:
        Thread(target=page.handle_request, daemon=True).start()
        assert "ends in /api/" in is_there(Target(f"http://127.0.0.1:{page.server_port}/"))


def test_a_server_that_is_not_well_is_not_there(server: OpikServer) -> None:
    server.faults([{"path": "is-alive", "status": 503}])
    assert "503" in is_there(Target(server.url))


# --------------------------------------------------------------------------- links


@pytest.mark.parametrize(("link", "kind"), [(optimization_link, "optimization"), (experiment_link, "experiment")])
def test_links_survive_any_text(link: object, kind: str) -> None:
    made = urllib.parse.urlsplit(link(Target("http://h/api/", "my space&"), "o", "d"))  # type: ignore[operator]
    query = dict(urllib.parse.parse_qsl(made.query))
    assert made.path == f"/api/v1/session/redirect/{kind}s"
    assert base64.b64decode(query.pop("path")).decode() == "http://h/api/"
    assert query == {f"{kind}_id": "o", "dataset_id": "d", "workspace_name": "my space&"}


# --------------------------------------------------------------------------- nothing is loaded


@pytest.mark.parametrize("module", ["records", "target", "ids", "rows", "delivery", "exporter", "client"])
def test_opik_is_loaded_by_no_import_of_ours(module: str) -> None:
    code = f"import utils.tracing.{module}, sys; sys.exit('opik' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_deciding_loads_no_opik() -> None:
    code = "import sys; from utils.tracing.target import decide; decide(None, {}); sys.exit('opik' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_link_leads_to_a_page(server: OpikServer) -> None:
    with pytest.raises(urllib.error.HTTPError):  # of what is not there
        urllib.request.urlopen(optimization_link(Target(server.url), "o", "d"))
