"""The calls the double answers: those that the project's exporter makes through the SDK, and a few to read back.

A handler takes the state and a request and gives a `Reply`. Paths are those after `.../api/`. What answers a browser,
the session redirects, sends it on to a page that names what it was asked for.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers.opik_server.state import MAX_BULK_BYTES, Refused, Row, State, now


@dataclass(frozen=True)
class Asked:
    """One request, read whole and unpacked."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    size: int = 0  # bytes of the unpacked body
    key: str = ""  # the Authorization header
    workspace: str = ""  # the header that names it
    parts: Mapping[str, str] = field(default_factory=dict)  # what stood for {id} in the path


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any = None  # JSON; bytes go out as they are
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[State, Asked], Reply]
ROUTES: list[tuple[str, re.Pattern[str], str, Handler]] = []
DONE = Reply(204)


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Enters a handler in the table; under one method the first entry that fits wins."""
    expression = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))

    def enter(handler: Handler) -> Handler:
        ROUTES.append((method, expression, f"{method} {pattern}", handler))
        return handler

    return enter


def answer(state: State, asked: Asked) -> tuple[str, Reply]:
    """The name of the route and its reply. Refusals and malformed bodies are replies too."""
    with state.lock:
        state.asking = asked.workspace or state.workspace
        if state.key and asked.key != state.key and asked.path.startswith("v1/private/"):
            return "unauthorized", Reply(401, {"code": 401, "message": "API key should be provided"})
        for method, expression, name, handler in ROUTES:
            found = expression.fullmatch(asked.path.rstrip("/"))
            if method == asked.method and found:
                return name, _guarded(state, asked, handler, found.groupdict())
        if asked.method == "GET" and not asked.path.startswith("v1/"):
            return "page", _page(asked)
        state.unknown.append({"method": asked.method, "path": asked.path, "query": asked.query, "body": asked.body})
        return "unknown", Reply(404, {"message": "the double has no such route"})


def _guarded(state: State, asked: Asked, handler: Handler, parts: Mapping[str, str]) -> Reply:
    try:
        if isinstance(asked.body, ValueError):
            raise asked.body
        return handler(state, Asked(**{**vars(asked), "parts": parts}))
    except Refused as refusal:
        return Reply(refusal.status, {"errors": [str(refusal)]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a body of another shape, as a backend's 400
        message = f"{asked.method} {asked.path}: {type(error).__name__}: {error}"
        state.problems.append(message)
        return Reply(400, {"errors": [message]})


def _found(row: Row | None, what: str) -> Reply:
    return Reply(404, {"errors": [f"{what} not found"]}) if row is None else Reply(200, row)


def _created(asked: Asked, row_id: str) -> Reply:
    return Reply(201, None, {"Location": f"/{asked.path}/{row_id}"})


# --------------------------------------------------------------------------- being there, and who asks


@route("GET", "is-alive/ping")
def ping(state: State, asked: Asked) -> Reply:
    return Reply(200, {"message": "Healthy Server", "healthy": True})


@route("GET", "is-alive/ver")
def version(state: State, asked: Asked) -> Reply:
    """Asked before datasets are filled: older backends than 2.2.8 get their batches one by one."""
    return Reply(200, {"version": "2.2.122"})


@route("POST", "v1/private/auth")
def auth(state: State, asked: Asked) -> Reply:
    return DONE


@route("GET", "v1/private/auth/workspace")
def workspace(state: State, asked: Asked) -> Reply:
    return Reply(200, {"workspace_name": state.workspace})


# --------------------------------------------------------------------------- traces and spans


@route("POST", "v1/private/traces/batch")
def create_traces(state: State, asked: Asked) -> Reply:
    state.put_many("trace", asked.body["traces"])
    return DONE


@route("POST", "v1/private/spans/batch")
def create_spans(state: State, asked: Asked) -> Reply:
    state.put_many("span", asked.body["spans"])
    return DONE


@route("PUT", "v1/private/traces/feedback-scores")
def score_traces(state: State, asked: Asked) -> Reply:
    state.put_scores("trace", asked.body["scores"])
    return DONE


@route("PUT", "v1/private/spans/feedback-scores")
def score_spans(state: State, asked: Asked) -> Reply:
    state.put_scores("span", asked.body["scores"])
    return DONE


@route("PATCH", "v1/private/traces/{id}")
def update_trace(state: State, asked: Asked) -> Reply:
    state.patch("trace", asked.parts["id"], asked.body)
    return DONE


@route("PATCH", "v1/private/spans/{id}")
def update_span(state: State, asked: Asked) -> Reply:
    state.patch("span", asked.parts["id"], asked.body)
    return DONE


@route("GET", "v1/private/(?P<table>traces|spans)/{id}")
def get_trace_or_span(state: State, asked: Asked) -> Reply:
    kind = asked.parts["table"].removesuffix("s")
    row = state.table(kind).get(asked.parts["id"])
    if row is None:
        return _found(None, kind)
    return _found({**row, "feedback_scores": state.scores_of(kind, row["id"])}, kind)


# --------------------------------------------------------------------------- projects and datasets


@route("POST", "v1/private/projects/retrieve")
def retrieve_project(state: State, asked: Asked) -> Reply:
    return _found(state.find_project(asked.body["name"]), "project")


@route("GET", "v1/private/projects/{id}")
def get_project(state: State, asked: Asked) -> Reply:
    return _found(state.projects.get(asked.parts["id"]), "project")


@route("POST", "v1/private/datasets")
def create_dataset(state: State, asked: Asked) -> Reply:
    """Unlike experiments, a second dataset of a name is a conflict: who comes second asks for it by name."""
    name, project_name = asked.body["name"], asked.body.get("project_name") or "Default Project"
    if state.find_dataset(name, project_name):
        return Reply(409, {"errors": ["Dataset already exists"]})
    dataset = state.dataset(name, project_name)
    wanted = asked.body.get("id")
    if wanted:
        state.check_id("dataset", wanted)
        state.datasets[wanted] = state.datasets.pop(dataset["id"]) | {"id": wanted}
    return _created(asked, wanted or dataset["id"])


def _shown(state: State, dataset: Row | None) -> Reply:
    if dataset is None:
        return _found(None, "dataset")
    using = sum(row["dataset_id"] == dataset["id"] for row in state.experiments.values())
    counts = {"dataset_items_count": len(state.items_of(dataset["id"])), "experiment_count": using}
    return Reply(200, {name: value for name, value in dataset.items() if name != "versions"} | counts)


@route("POST", "v1/private/datasets/retrieve")
def retrieve_dataset(state: State, asked: Asked) -> Reply:
    return _shown(state, state.find_dataset(asked.body["dataset_name"], asked.body.get("project_name")))


@route("GET", "v1/private/datasets/{id}")
def get_dataset(state: State, asked: Asked) -> Reply:
    return _shown(state, state.datasets.get(asked.parts["id"]))


@route("PUT", "v1/private/datasets/items")
def put_dataset_items(state: State, asked: Asked) -> Reply:
    """Makes the dataset too where it is named and not there, so that this one call may be repeated from the start."""
    body = asked.body
    named = state.datasets.get(body.get("dataset_id") or "")
    dataset = named or state.dataset(body["dataset_name"], body.get("project_name"))
    state.put_items(dataset, body["items"], body.get("batch_group_id"))
    return DONE


@route("POST", "v1/private/datasets/items/stream")
def stream_dataset_items(state: State, asked: Asked) -> Reply:
    """Newest first, a line each; a reader goes on from the last id it saw."""
    dataset = state.find_dataset(asked.body["dataset_name"], asked.body.get("project_name"))
    if dataset is None:
        return _found(None, "dataset")
    last = asked.body.get("last_retrieved_id") or "g"  # sorts after every id
    rows = [row for row in _newest_first(state.items_of(dataset["id"])) if row["id"] < last]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows[: asked.body.get("steam_limit") or 500])
    return Reply(200, lines, {"Content-Type": "application/octet-stream"})  # `steam_limit` is the API's own spelling


@route("GET", "v1/private/datasets/{id}/items")
def list_dataset_items(state: State, asked: Asked) -> Reply:
    rows = _newest_first(state.items_of(asked.parts["id"]))
    page, size = int(asked.query.get("page", 1)), int(asked.query.get("size", 10))
    content = rows[(page - 1) * size : page * size]
    return Reply(200, {"page": page, "size": size, "total": len(rows), "content": content, "columns": []})


@route("GET", "v1/private/datasets/{id}/versions")
def list_dataset_versions(state: State, asked: Asked) -> Reply:
    """The latest version alone: a reader wants its hash, to read pages of one version."""
    dataset = state.datasets.get(asked.parts["id"])
    count = len(dataset["versions"]) if dataset else 0
    latest: Row = {"id": asked.parts["id"], "version_hash": f"h{count}", "version_name": f"v{count}", "is_latest": True}
    content = [latest | {"items_total": len(state.items_of(asked.parts["id"]))}] if count else []
    return Reply(200, {"content": content, "page": 1, "size": len(content), "total": len(content)})


def _newest_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: str(row["id"]), reverse=True)


# --------------------------------------------------------------------------- experiments


@route("POST", "v1/private/experiments")
def create_experiment(state: State, asked: Asked) -> Reply:
    return _created(asked, state.put_experiment(asked.body)["id"])


@route("POST", "v1/private/experiments/items")
def create_experiment_items(state: State, asked: Asked) -> Reply:
    state.put_experiment_items(asked.body["experiment_items"])
    return DONE


@route("PUT", "v1/private/experiments/items/bulk")
def put_experiment_items_bulk(state: State, asked: Asked) -> Reply:
    """Traces, spans, scores and items at once. The ids of the items are made here: a repeat doubles them."""
    body = asked.body
    if asked.size > MAX_BULK_BYTES:
        state.object_to(f"a bulk body of {asked.size} bytes", 422)
    if body.get("experiment_id") not in state.experiments:
        state.object_to(f"a bulk for unknown experiment {body.get('experiment_id')}", 409)
        names = ("dataset_name", "project_name")
        made = {"id": body.get("experiment_id"), "name": body["experiment_name"], **{n: body.get(n) for n in names}}
        body["experiment_id"] = state.put_experiment(made)["id"]
    experiment = state.experiments[body["experiment_id"]]
    state.check_batch("bulk", body["items"], ("dataset_item_id",))
    project = {"project_name": body.get("project_name"), "project_id": experiment["project_id"]}
    for record in body["items"]:
        _put_record(state, experiment["id"], project, record)
    return DONE


def _put_record(state: State, experiment_id: str, project: Row, record: Row) -> None:
    bare = {"start_time": now(), "end_time": now(), "output": record.get("evaluate_task_result")}
    trace = {**project, **(record.get("trace") or bare), "source": "experiment"}  # whatever was sent
    state.put_many("trace", [trace])
    mine = {**project, "trace_id": trace["id"], "source": "experiment"}
    if spans := record.get("spans"):
        state.put_many("span", [{**span, **mine} for span in spans])
    if scores := record.get("feedback_scores"):
        state.put_scores("trace", [{**score, "id": trace["id"]} for score in scores])
    link = {"experiment_id": experiment_id, "dataset_item_id": record["dataset_item_id"], "trace_id": trace["id"]}
    state.put_experiment_items([link])


@route("POST", "v1/private/experiments/finish")
def finish_experiments(state: State, asked: Asked) -> Reply:
    """A backend only raises an alert here and stores nothing; `finished_at` is for tests."""
    state.check_batch("experiment", asked.body["ids"])
    for experiment_id in asked.body["ids"]:
        if experiment_id in state.experiments:
            state.experiments[experiment_id]["finished_at"] = now()
    return DONE


@route("GET", "v1/private/experiments/{id}")
def get_experiment(state: State, asked: Asked) -> Reply:
    experiment = state.experiments.get(asked.parts["id"])
    if experiment is None:
        return _found(None, "experiment")
    traces = state.traces_of(experiment["id"])
    values: dict[str, list[float]] = {}
    for (kind, owner, name), score in state.scores.items():
        if kind == "trace" and owner in traces:
            values.setdefault(name, []).append(score["value"])
    means = [{"name": name, "value": sum(these) / len(these)} for name, these in values.items()]
    return Reply(200, {**experiment, "trace_count": len(traces), "feedback_scores": means})


@route("PATCH", "v1/private/experiments/{id}")
def update_experiment(state: State, asked: Asked) -> Reply:
    experiment = state.experiments.get(asked.parts["id"])
    if experiment is None:
        return _found(None, "experiment")
    experiment.update({name: value for name, value in asked.body.items() if value is not None})
    return DONE


# --------------------------------------------------------------------------- optimizations


@route("POST", "v1/private/optimizations")
def create_optimization(state: State, asked: Asked) -> Reply:
    return _created(asked, state.put_optimization(asked.body)["id"])


@route("PUT", "v1/private/optimizations")
def upsert_optimization(state: State, asked: Asked) -> Reply:
    return _created(asked, state.put_optimization(asked.body)["id"])


@route("PUT", "v1/private/optimizations/{id}")
def update_optimization(state: State, asked: Asked) -> Reply:
    optimization = state.optimizations.get(asked.parts["id"])
    if optimization is None:
        return _found(None, "optimization")
    optimization.update({name: value for name, value in asked.body.items() if value is not None})
    return DONE


@route("GET", "v1/private/optimizations/{id}")
def get_optimization(state: State, asked: Asked) -> Reply:
    optimization = state.optimizations.get(asked.parts["id"])
    if optimization is None:
        return _found(None, "optimization")
    experiments = [row for row in state.experiments.values() if row.get("optimization_id") == optimization["id"]]
    return Reply(200, {**optimization, "num_trials": sum(row.get("type") == "trial" for row in experiments)})


# --------------------------------------------------------------------------- links

LINKED = {  # what a link leads to -> the parameter that names it, and the state's collection
    "projects": ("trace_id", "traces"),
    "experiments": ("experiment_id", "experiments"),
    "optimizations": ("optimization_id", "optimizations"),
    "datasets": ("dataset_id", "datasets"),
}


@route("GET", "v1/session/redirect/(?P<kind>projects|experiments|optimizations|datasets)")
def redirect(state: State, asked: Asked) -> Reply:
    """Sends the browser to the web pages at the address that `path` holds, with every parameter of the link."""
    name, collection = LINKED[asked.parts["kind"]]
    if asked.query.get(name) not in getattr(state, collection):
        return _found(None, f"{name} {asked.query.get(name)}")
    if "dataset_id" in asked.query and asked.query["dataset_id"] not in state.datasets:
        return _found(None, f"dataset_id {asked.query['dataset_id']}")
    try:
        root = base64.b64decode(asked.query["path"], validate=True).decode().rstrip("/").removesuffix("/api")
    except (KeyError, binascii.Error, UnicodeDecodeError) as error:
        raise Refused(400, f"path is not the base64 of an address: {asked.query.get('path')!r}") from error
    shown = {key: value for key, value in asked.query.items() if key not in ("path", "workspace_name")}
    page = f"{asked.query.get('workspace_name') or state.workspace}/{asked.parts['kind']}"
    return Reply(303, None, {"Location": f"{root}/{page}?{urllib.parse.urlencode(shown)}"})


def _page(asked: Asked) -> Reply:
    """A page of the web interface: it only says which."""
    text = f"{asked.path}?{urllib.parse.urlencode(asked.query)}"
    return Reply(200, text.encode(), {"Content-Type": "text/html"})
