"""A Hugging Face hub of one's own: the few endpoints that `datasets.load_dataset` calls, over files held in memory.

Run with HF_ENDPOINT set to `Hub.url` before `huggingface_hub` is imported, which reads it once, and with HF_HOME in a
folder of its own. Endpoints, as huggingface_hub 1.x calls them (DATASET is `owner/name`, REV a commit or `main`):

    GET  /api/datasets/DATASET[/revision/REV]     the commit and the list of files
    GET  /api/datasets/DATASET/tree/REV[/FOLDER]  the files of a folder
    POST /api/datasets/DATASET/paths-info/REV     what is known of some paths
    HEAD, GET /datasets/DATASET/resolve/REV/PATH  a file, with its ETag and commit

Anything else is a 404, and every request is kept in `Hub.requests`, so that a test can tell what was not fetched.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Repo:
    """A dataset repository at its one commit; other revisions than `commit` and `main` are unknown."""

    commit: str
    files: Mapping[str, bytes]


def parquet_repo(commit: str, configs: Mapping[str | None, Mapping[str, Rows]]) -> Repo:
    """A repository with a parquet file for each split of each config, and the card that names them."""
    files: dict[str, bytes] = {}
    card = ["---", "configs:"]
    for config, splits in configs.items():
        folder = config or "data"
        card += [f"- config_name: {json.dumps(config or 'default')}", "  data_files:"]
        for split, rows in splits.items():
            files[f"{folder}/{split}-00000-of-00001.parquet"] = _parquet(rows)
            card += [f"  - split: {split}", f'    path: "{folder}/{split}-*"']
    files["README.md"] = "\n".join([*card, "---", ""]).encode()
    return Repo(commit, files)


def _parquet(rows: Rows) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), out)
    return out.getvalue()


class Hub:
    """The server, from `with` to its end; `url` is its endpoint."""

    def __init__(self, repos: Mapping[str, Repo]) -> None:
        self.repos = repos
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


API = re.compile(r"/api/datasets/(?P<name>[^/]+/[^/]+)(?:/(?P<verb>revision|tree|paths-info)/(?P<rest>.+))?")
FILE = re.compile(r"/datasets/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.hub.requests.append(f"{self.command} {self.path}")
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if found := FILE.fullmatch(path):
            self._send_file(found["name"], found["revision"], found["path"])
        elif found := API.fullmatch(path):
            self._send_facts(found["name"], found["verb"] or "revision", found["rest"] or "main", sent)
        else:
            self._refuse("EntryNotFound", f"no endpoint {path}")

    def _repo(self, name: str, revision: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._refuse("RepoNotFound", f"no dataset {name}")
        elif revision not in (repo.commit, "main"):
            self._refuse("RevisionNotFound", f"no revision {revision}")
            repo = None
        return repo

    def _send_facts(self, name: str, verb: str, rest: str, sent: str) -> None:
        revision, _, folder = rest.partition("/")
        repo = self._repo(name, revision)
        if repo is None:
            return
        if verb == "revision":
            files = [{"rfilename": path} for path in repo.files]
            facts = {"id": name, "sha": repo.commit, "private": False, "gated": False, "disabled": False, "tags": []}
            self._send_json({**facts, "downloads": 0, "likes": 0, "siblings": files})
        elif verb == "tree":
            recursive = "recursive=true" in self.path.lower()
            self._send_json(_tree(repo, folder, recursive))
        else:
            wanted = _paths(sent, self.headers.get("Content-Type") or "")
            self._send_json([fact for path in wanted for fact in _known(repo, path.strip("/"))])

    def _send_file(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name, revision)
        if repo is None:
            return
        body = repo.files.get(path)
        headers = {"X-Repo-Commit": repo.commit}
        if body is None:
            self._refuse("EntryNotFound", f"no file {path}", headers)
            return
        headers |= {"ETag": f'"{_oid(body)}"', "Accept-Ranges": "bytes"}
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or len(body) - 1), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        self._send(status, body, "application/octet-stream", headers)

    def _refuse(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send_json({"error": message}, 404, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})

    def _send_json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send(self, status: int, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _paths(sent: str, kind: str) -> list[str]:
    if "json" in kind:
        paths = json.loads(sent)["paths"]
        return [paths] if isinstance(paths, str) else list(paths)
    return urllib.parse.parse_qs(sent).get("paths", [])


def _known(repo: Repo, path: str) -> list[dict[str, Any]]:
    if path in repo.files:
        body = repo.files[path]
        return [{"type": "file", "path": path, "size": len(body), "oid": _oid(body)}]
    if any(name.startswith(f"{path}/") for name in repo.files):
        return [{"type": "directory", "path": path, "size": 0, "oid": _oid(path.encode())}]
    return []


def _tree(repo: Repo, folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    below = [name.removeprefix(prefix) for name in repo.files if name.startswith(prefix)]
    folders = {rest[:i] for rest in below for i, char in enumerate(rest) if char == "/"}
    names = [name for name in sorted({*below, *folders}) if recursive or "/" not in name]
    return [fact for name in names for fact in _known(repo, prefix + name)]


def _oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
