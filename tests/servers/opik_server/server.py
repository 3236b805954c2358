"""The sockets of the double: a thread a connection, HTTP/1.1 with keep-alive; faults; and going down and coming back.

The state outlives the listening socket, so a double that is down and up again stands for a backend that was restarted.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers.opik_server.faults import Fault, Faults
from tests.servers.opik_server.routes import Asked, Reply, answer
from tests.servers.opik_server.state import Row, State
from tests.servers.process import serving
from tests.waiting import PATIENCE_S, until

LISTS = ("traces", "spans", "scores", "items", "experiment_items")  # the names under which bodies hold rows


class OpikServer:
    """The double on threads of this process, as a context manager. Keyword arguments are those of `State`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **options: Any) -> None:
        self.state = State(**options)
        self.broken = Faults()
        self.host, self.port = host, port
        self._listener: _Listener | None = None

    @property
    def url(self) -> str:
        """What OPIK_URL_OVERRIDE wants."""
        return f"http://{self.host}:{self.port}/api/"

    def __enter__(self) -> OpikServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listens, on the port it had if it had one."""
        self._listener = _Listener(self, (self.host, self.port))
        self.port = self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), name="opik-server", daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on and cuts those that are open; the state stays."""
        listener, self._listener = self._listener, None
        if listener:
            listener.end()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Nobody is listening meanwhile."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the rules by which it misbehaves, see `Fault`; none: it behaves."""
        self.broken.set(rules)

    def summary(self) -> Row:
        return self.state.summary()

    def rows(self, collection: str, **fields: object) -> list[Any]:
        """A copy of a collection; only the rows with these values, if any are given."""
        with self.state.lock:
            held = getattr(self.state, collection)
            rows = list(held.values()) if isinstance(held, dict) else list(held)
        return [row for row in rows if all(str(row.get(name)) == str(value) for name, value in fields.items())]

    def reset(self) -> None:
        """Forgets all it was sent; the faults stay."""
        self.state.reset()


class _Listener(ThreadingHTTPServer):
    """One life of the listening socket; knows its open connections, to cut them at its end."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, server: OpikServer, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)
        self.double = server
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are gone are what many tests are about."""

    def end(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        until(lambda: not self._open)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer in one packet

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        packed = self.headers.get("Content-Encoding") == "gzip"
        text = gzip.decompress(raw) if packed else raw
        url = urllib.parse.urlsplit(self.path)
        path = url.path.partition("/api/")[2] or url.path.lstrip("/")  # Opik may stand behind a prefix, or bare
        query = dict(urllib.parse.parse_qsl(url.query))
        key = self.headers.get("Authorization") or ""
        workspace = self.headers.get("Comet-Workspace") or ""
        asked = Asked(self.command, path, query, _parsed(text), len(text), key, workspace)
        if path.startswith("_fake/"):
            self._send(_control(self.server.double, asked))
        else:
            self._answer(asked, len(raw))

    do_GET = do_POST = do_PUT = do_PATCH = _serve

    def _answer(self, asked: Asked, wire_bytes: int) -> None:
        """Answers as usual, or as the fault has it that strikes."""
        double, arrived = self.server.double, time.time()
        fault = double.broken.pick(asked.method, asked.path)
        name, reply = f"{asked.method} {asked.path}", Reply(0)
        if fault.apply or not fault.breaks:
            name, reply = answer(double.state, asked)
        if fault.breaks:
            reply = Reply(fault.status, {"message": "injected fault"}, fault.headers)
        if fault.drop or fault.hang:
            reply = Reply(0)
        double.state.requests.append(_noted(asked, name, reply, fault, arrived, wire_bytes, self._headers()))
        self.server.stopping.wait(fault.hang)
        self._send(reply)

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _send(self, reply: Reply) -> None:
        if not reply.status or self.server.stopping.is_set():
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body, default=str).encode()
        body = b"" if reply.body is None else body
        self.send_response(reply.status)
        for name, value in ({"Content-Type": "application/json"} | dict(reply.headers)).items():
            self.send_header(name, str(value))
        if reply.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _parsed(text: bytes) -> Any:
    """The body; what is no JSON is its error, for the handlers to trip over. NaN is none, though the SDK writes it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text or b"{}", parse_constant=refuse)
    except ValueError as error:
        return error


def _noted(
    asked: Asked, name: str, reply: Reply, fault: Fault, arrived: float, wire_bytes: int, headers: Mapping[str, str]
) -> Row:
    """What is kept of a request; status 0 where the client got no answer."""
    body = asked.body if isinstance(asked.body, dict) else {}
    return {
        "at": arrived,
        "method": asked.method,
        "path": asked.path,
        "route": name,
        "status": reply.status,
        "fault": fault.breaks,
        "rows": sum(len(body[each]) for each in LISTS if isinstance(body.get(each), list)),
        "bytes": asked.size,
        "wire_bytes": wire_bytes,
        "workspace": headers.get("comet-workspace"),
        "authorized": bool(asked.key),
    }


def _control(double: OpikServer, asked: Asked) -> Reply:
    """The double's own routes, for a test in another process."""
    what = asked.path.removeprefix("_fake/")
    if asked.method == "GET" and what == "summary":
        return Reply(200, double.summary())
    if asked.method == "GET" and what == "faults":
        return Reply(200, double.broken.rules())
    if asked.method == "GET" and what in State.COLLECTIONS:
        return Reply(200, double.rows(what, **asked.query))
    if asked.method == "POST" and what == "reset":
        double.reset()
        return Reply(204)
    if asked.method == "POST" and what == "faults":
        try:
            double.faults(asked.body)
        except ValueError as error:
            return Reply(400, {"message": str(error)})
        return Reply(204)
    return Reply(404, {"message": f"the double has no {what}; see its docstring"})


# --------------------------------------------------------------------------- as a process


class Remote:
    """A handle on a double in another process: what `OpikServer` offers, over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = url.removesuffix("api/") + "_fake/"

    def _call(self, what: str, body: object = None) -> Any:
        raw = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + what, raw, method="GET" if raw is None else "POST")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return json.loads(reply.read() or b"null")

    def summary(self) -> Row:
        return dict(self._call("summary"))

    def rows(self, collection: str, **fields: object) -> list[Any]:
        """A collection; only the rows with these values, if any are given."""
        return list(self._call(f"{collection}?{urllib.parse.urlencode(fields)}"))

    def faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        self._call("faults", rules)

    def reset(self) -> None:
        self._call("reset", {})


@contextlib.contextmanager
def spawned(*arguments: str) -> Iterator[Remote]:
    """The double as a process of its own, started with these options."""
    with serving(__package__, *arguments) as url:
        yield Remote(url)


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-file", type=Path, help="the URL is written here once the server listens")
    parser.add_argument("--strict", action="store_true", help="refuse what a real backend would")
    parser.add_argument("--window-h", type=float, default=24.0, help="how old new ids may be, in hours; 0: any age")
    parser.add_argument("--workspace", default="default")
    parser.add_argument("--key", default="", help="refuse requests that do not bring this key")
    parser.add_argument("--faults", type=json.loads, default=[], help="rules, as a JSON list")
    options = vars(parser.parse_args())
    ready, rules = options.pop("ready_file"), options.pop("faults")
    with contextlib.suppress(KeyboardInterrupt), OpikServer(**options) as server:
        server.faults(rules)
        print(server.url, flush=True)
        if ready:
            ready.write_text(server.url + "\n")
        threading.Event().wait()
