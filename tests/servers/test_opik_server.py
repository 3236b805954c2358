"""The double keeps its own promises, shown by the real SDK: other tests judge the exporter by what it holds."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.servers.opik_server import OpikServer, new_id, spawned
from tests.waiting import PATIENCE_S, ended, until

Json = dict[str, Any]
PROJECT = "double"
QUIET = {
    "OPIK_SENTRY_ENABLE": "false",
    "OPIK_ANALYTICS_ENABLE": "false",
    "OPIK_DEFAULT_FLUSH_TIMEOUT": str(round(PATIENCE_S)),
    "OPIK_CONSOLE_LOGGING_LEVEL": "CRITICAL",
}


@pytest.fixture
def server() -> Iterator[OpikServer]:
    with OpikServer(strict=True) as started:
        yield started


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The SDK reads these when it is imported or a client is made; nobody's own configuration is looked at."""
    for name in [each for each in os.environ if each.startswith("OPIK_")]:
        monkeypatch.delenv(name)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    empty = tmp_path / "opik.config"  # a path to nothing would be complained about
    empty.touch()
    monkeypatch.setenv("OPIK_CONFIG_PATH", str(empty))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)  # with it the SDK uses httpx in a deprecated way


@pytest.fixture
def api(server: OpikServer) -> Iterator[Any]:
    """The SDK's REST client by itself: no threads and no retries, so that a fault is seen once and at once."""
    yield from _api(server.url)


def _api(url: str, key: str | None = None) -> Iterator[Any]:
    import httpx
    from opik import httpx_client, rest_api

    transport = httpx_client.get(workspace="w", api_key=key, check_tls_certificate=True, compress_json_requests=True)
    transport.timeout = httpx.Timeout(PATIENCE_S)
    with transport:
        yield rest_api.OpikApi(base_url=url, httpx_client=transport)


@pytest.fixture
def client(server: OpikServer) -> Iterator[Any]:
    """The SDK's whole client, as its documentation has it."""
    import opik

    made = opik.Opik(project_name=PROJECT, host=server.url, _show_misconfiguration_message=False)
    yield made
    made.end(timeout=1)  # of the test's own; by now there is nothing left to send


def stamp() -> datetime:
    return datetime.now(UTC)


def trace_row(**extra: Any) -> Json:
    times = {"start_time": stamp(), "end_time": stamp()}
    return {"id": new_id(), "project_name": PROJECT, "name": "item", **times, "input": {"q": "?"}, **extra}


def span_row(trace_id: str, **extra: Any) -> Json:
    return trace_row(name="call", trace_id=trace_id, type="llm", model="m", usage={"total_tokens": 3}, **extra)


def score_row(trace_id: str, value: float = 1.0) -> Json:
    return {"id": trace_id, "project_name": PROJECT, "name": "exact", "value": value, "source": "sdk"}


class Candidate:
    """An experiment of two items, each with a trace, a span and a score, under ids of our own."""

    def __init__(self) -> None:
        self.optimization, self.experiment = new_id(), new_id()
        self.items = [{"id": new_id(), "source": "sdk", "data": {"question": n}} for n in range(2)]
        self.traces = [trace_row() for _ in self.items]
        self.spans = [span_row(trace["id"]) for trace in self.traces]
        self.scores = [score_row(trace["id"], n / 2) for n, trace in enumerate(self.traces)]
        pairs = zip(self.items, self.traces, strict=True)
        named = {"experiment_id": self.experiment, "project_name": PROJECT}
        self.links = [{"id": new_id(), "dataset_item_id": i["id"], "trace_id": t["id"], **named} for i, t in pairs]

    def prepare(self, api: Any) -> None:
        home = {"dataset_name": "d", "project_name": PROJECT}
        api.datasets.create_or_update_dataset_items(items=self.items, **home)
        api.optimizations.create_optimization(id=self.optimization, objective_name="exact", status="running", **home)
        api.experiments.create_experiment(
            id=self.experiment, name="c0", type="trial", optimization_id=self.optimization, **home
        )

    def push(self, api: Any) -> None:
        api.traces.create_traces(traces=self.traces)
        api.spans.create_spans(spans=self.spans)
        api.traces.score_batch_of_traces(scores=self.scores)
        api.experiments.create_experiment_items(experiment_items=self.links)
        api.experiments.finish_experiments(ids=[self.experiment])


def status_of(call: Callable[[], object]) -> int:
    from opik.rest_api.core.api_error import ApiError

    with pytest.raises(ApiError) as caught:
        call()
    return int(caught.value.status_code or 0)


def whole(summary: Mapping[str, Any]) -> bool:
    amiss = ("doubled", "open_traces", "open_spans", "orphan_spans", "orphan_scores", "dangling_items")
    return not any(summary[name] for name in (*amiss, "problems", "unknown"))


# --------------------------------------------------------------------------- what the SDK sends is held


def test_dataset_items_are_read_back_and_equal_ones_are_not_sent_again(server: OpikServer, client: Any) -> None:
    rows = [{"id": new_id(), "question": f"q{n}", "answer": n} for n in range(3)]
    client.get_or_create_dataset("d").insert(rows, num_threads=1)
    again = client.get_or_create_dataset("d")  # as another process would: it asks what is there
    again.insert([{"question": "q1", "answer": 1}, {"question": "new", "answer": 9}], num_threads=1)
    found = sorted(again.get_items(), key=lambda row: str(row["question"]))
    assert (found[1:], found[0]["question"]) == (rows, "new")
    assert (len(server.state.items), len(server.state.datasets)) == (4, 1)
    assert not server.state.unknown


def test_optimization_and_experiment_keep_their_fixed_ids(server: OpikServer, client: Any) -> None:
    dataset, optimization_id, experiment_id = client.create_dataset("d"), new_id(), new_id()
    optimization = client.create_optimization(
        dataset_name="d", objective_name="exact", optimization_id=optimization_id, metadata={"optimizer": "greedy"}
    )
    client.create_experiment(
        "d", type="mini-batch", optimization_id=optimization_id, experiment_id=experiment_id, experiment_config={"n": 0}
    )
    optimization.update(status="error", error_info={"exception_type": "E", "message": "m", "traceback": "t"})
    assert client.get_optimization_by_id(optimization_id).fetch_content().status == "error"
    experiment = server.state.experiments[experiment_id]
    assert (experiment["type"], experiment["metadata"], experiment["dataset_id"]) == (
        "mini-batch",
        {"n": 0},
        dataset.id,
    )
    assert not server.state.problems


def test_a_candidate_sent_twice_under_the_same_ids_stands_once(server: OpikServer, api: Any) -> None:
    candidate = Candidate()
    for _ in range(2):
        candidate.prepare(api)
        candidate.push(api)
    found = server.summary()
    assert [found[name] for name in ("traces", "spans", "scores", "experiment_items", "items")] == [2] * 5
    assert (found["experiments"], found["optimizations"], found["repeated"]["trace"]) == (1, 1, 2)
    assert whole(found)
    assert api.experiments.get_experiment_by_id(candidate.experiment).feedback_scores[0].value == 0.25


def test_a_repeated_bulk_upload_is_doubled(server: OpikServer, client: Any) -> None:
    from opik.api_objects.experiment import bulk_item

    item = new_id()
    client.create_dataset("d").insert([{"id": item, "q": 1}], num_threads=1)
    made = bulk_item.ExperimentItemBulkTrace(id=new_id(), start_time=stamp(), end_time=stamp(), output={"a": 1})
    call = bulk_item.ExperimentItemBulkSpan(id=new_id(), start_time=stamp(), end_time=stamp(), type="llm")
    scores = [{"id": made.id, "name": "exact", "value": 1.0}]
    record = bulk_item.ExperimentItemBulkRecord(item, trace=made, spans=[call], feedback_scores=scores)
    experiment = client.create_experiment("d", name="c0")
    experiment.batch_upload_items([record], num_threads=1)
    assert whole(server.summary())
    experiment.batch_upload_items([record], num_threads=1)
    found = server.summary()
    assert [found[name] for name in ("traces", "spans", "scores", "experiment_items", "doubled")] == [1, 1, 1, 2, 1]


def test_what_is_not_whole_is_counted(server: OpikServer, api: Any) -> None:
    trace = trace_row(end_time=None)
    api.traces.create_traces(traces=[trace])
    lost, child = span_row(new_id()), span_row(trace["id"], parent_span_id=new_id(), end_time=None)
    api.spans.create_spans(spans=[lost, child])
    api.traces.score_batch_of_traces(scores=[score_row(new_id())])
    found = server.summary()
    assert [found[f"open_{each}"] for each in ("traces", "spans")] == [1, 1]
    assert (found["orphan_spans"], found["orphan_scores"]) == (2, 1)


def test_an_update_that_overtakes_its_create_is_kept(server: OpikServer, api: Any) -> None:
    trace = trace_row(output={"a": "early"}, end_time=None)
    api.traces.update_trace(trace["id"], project_name=PROJECT, end_time=stamp(), output={"a": "late"})
    api.traces.create_traces(traces=[trace])
    held = server.state.traces[trace["id"]]
    assert (held["output"], held["input"], bool(held["end_time"])) == ({"a": "late"}, {"q": "?"}, True)
    assert server.summary()["repeated"] == {}


def test_the_whole_client_delivers_in_the_background(server: OpikServer, client: Any) -> None:
    trace = client.trace(name="item", end_time=stamp())
    client.span(trace_id=trace.id, name="call", type="llm", end_time=stamp())
    client.log_traces_feedback_scores([{"id": trace.id, "name": "exact", "value": 1.0}])
    assert client.flush(timeout=PATIENCE_S)
    assert {row["workspace"] for row in server.state.requests} == {"default"}
    assert whole(server.summary())
    assert (len(server.state.traces), len(server.state.spans), len(server.state.scores)) == (1, 1, 1)


def test_a_project_is_known_once_something_names_it(server: OpikServer, api: Any) -> None:
    assert status_of(lambda: api.projects.retrieve_project(name=PROJECT)) == 404
    api.traces.create_traces(traces=[trace_row()])
    found = api.projects.retrieve_project(name=PROJECT.upper())
    assert api.projects.get_project_by_id(found.id).name == PROJECT


def test_unknown_routes_are_listed(server: OpikServer, api: Any) -> None:
    assert status_of(lambda: api.alerts.find_alerts()) == 404
    assert [row["path"] for row in server.state.unknown] == ["v1/private/alerts"]


# --------------------------------------------------------------------------- what a backend refuses


REFUSED: dict[str, tuple[Callable[[Any], object], int]] = {
    "not v7": (
        lambda api: api.traces.create_traces(traces=[trace_row(id="0" * 8 + "-0000-4000-8000-" + "0" * 12)]),
        400,
    ),
    "old": (lambda api: api.traces.create_traces(traces=[trace_row(id=new_id(age_s=25 * 3600))]), 400),
    "empty": (lambda api: api.traces.create_traces(traces=[]), 422),
    "long": (lambda api: api.spans.create_spans(spans=[{**span_row(new_id()), "id": new_id()}] * 1001), 422),
    "no trace": (lambda api: api.spans.create_spans(spans=[trace_row()]), 422),
    "one of two": (lambda api: api.traces.create_traces(traces=[trace_row(), trace_row(id="x")]), 400),
    "score": (lambda api: api.traces.score_batch_of_traces(scores=[score_row("x")]), 400),
    "item": (
        lambda api: api.experiments.create_experiment_items(
            experiment_items=[{n: new_id() for n in ("id", "experiment_id", "dataset_item_id", "trace_id")}]
        ),
        409,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_strict_refuses_and_stores_nothing(case: str, server: OpikServer, api: Any) -> None:
    call, status = REFUSED[case]
    assert status_of(lambda: call(api)) == status
    assert [server.summary()[name] for name in ("traces", "spans", "scores", "experiment_items")] == [0] * 4


def test_lenient_takes_the_same_and_lists_it() -> None:
    with OpikServer() as server:
        for api in _api(server.url):
            for call, _ in REFUSED.values():
                call(api)
        assert len(server.state.problems) >= len(REFUSED)
        assert server.summary()["dangling_items"] == 1


def test_an_old_row_passes_where_no_window_is_set() -> None:
    with OpikServer(strict=True, window_h=0) as server:
        for api in _api(server.url):
            api.traces.create_traces(traces=[trace_row(id=new_id(age_s=90 * 86400))])
        assert len(server.state.traces) == 1


def test_a_bulk_of_more_than_4_mb_is_refused_by_its_unpacked_size(server: OpikServer, api: Any) -> None:
    candidate = Candidate()
    candidate.prepare(api)
    bulk: Json = {"experiment_id": candidate.experiment, "experiment_name": "c0", "dataset_name": "d", "items": []}
    bulk["items"] = [{"dataset_item_id": new_id(), "evaluate_task_result": {"text": "x" * (1 << 20)}} for _ in range(4)]
    transport = api._client_wrapper.httpx_client.httpx_client
    assert transport.put(server.url + "v1/private/experiments/items/bulk", json=bulk).status_code == 422
    assert (server.state.requests[-1]["wire_bytes"] < 1 << 20, len(server.state.experiment_items)) == (True, 0)


def test_a_body_with_a_nan_is_not_json(server: OpikServer, api: Any) -> None:
    assert status_of(lambda: api.traces.create_traces(traces=[trace_row(output={"score": float("nan")})])) == 400
    assert (server.summary()["traces"], len(server.state.problems)) == (0, 1)


def test_a_wrong_key_is_refused_and_the_ping_is_not() -> None:
    with OpikServer(key="right") as server:
        for key, refused in (("wrong", True), ("right", False)):
            for api in _api(server.url, key):
                assert api.is_alive()["healthy"]
                assert not refused or status_of(lambda api=api: api.check.access(request={})) == 401
                assert refused or api.check.get_workspace_name().workspace_name == "default"


# --------------------------------------------------------------------------- faults


def send(api: Any, timeout_s: float = PATIENCE_S) -> None:
    api.traces.create_traces(traces=[trace_row()], request_options={"timeout_in_seconds": timeout_s})


def test_a_status_strikes_its_path_so_many_times_and_brings_its_headers(server: OpikServer, api: Any) -> None:
    from opik.rest_api.core.api_error import ApiError

    rule = {"path": "traces/batch", "method": "POST", "status": 429, "headers": {"RateLimit-Reset": "2"}}
    server.faults([{**rule, "count": 1, "after": 1}])
    send(api)
    assert api.is_alive()["healthy"]
    with pytest.raises(ApiError) as caught:
        send(api)
    assert (caught.value.status_code, (caught.value.headers or {})["ratelimit-reset"]) == (429, "2")
    send(api)
    assert len(server.state.traces) == 2
    assert server.summary()["answers"]["POST v1/private/traces/batch 429"] == 1


@pytest.mark.parametrize("fault", [{"drop": True}, {"hang": PATIENCE_S}])
@pytest.mark.parametrize("kept", [False, True])
def test_no_answer_comes_and_only_apply_stores(fault: Json, kept: bool, server: OpikServer, api: Any) -> None:
    import httpx

    server.faults([{"path": "traces/batch", "apply": kept, **fault}])
    with pytest.raises(httpx.ReadTimeout if "hang" in fault else httpx.RemoteProtocolError):
        send(api, timeout_s=0.4 if "hang" in fault else PATIENCE_S)
    until(lambda: [row["fault"] for row in server.state.requests] == [True])  # it may have been read late
    assert len(server.state.traces) == kept
    server.faults([])
    send(api)
    assert len(server.state.traces) == kept + 1


def test_a_refusal_after_the_commit_is_a_lost_reply(server: OpikServer, api: Any) -> None:
    server.faults([{"status": 502, "apply": True, "count": 1}])
    assert status_of(lambda: send(api)) == 502
    assert len(server.state.traces) == 1


def test_chances_are_the_same_for_the_same_requests() -> None:
    def statuses() -> list[int]:
        with OpikServer() as server:
            server.faults([{"status": 500, "p": 0.5}])
            for api in _api(server.url):
                transport = api._client_wrapper.httpx_client.httpx_client
                return [transport.get(server.url + "is-alive/ping").status_code for _ in range(20)]
        return []

    assert statuses() == statuses()
    assert set(statuses()) == {200, 500}


def test_misspelt_faults_are_refused(server: OpikServer) -> None:
    with pytest.raises(ValueError, match=r"\['stauts'\]; known: path, method, status"):
        server.faults([{"stauts": 500}])


def test_down_is_refused_and_a_restart_keeps_what_was_held(server: OpikServer, api: Any) -> None:
    import httpx

    send(api)
    url = server.url
    for _ in range(2):
        with server.down(), pytest.raises((httpx.ConnectError, httpx.RemoteProtocolError)):
            send(api)
    assert server.url == url
    send(api)
    assert len(server.state.traces) == 2


def test_the_end_does_not_wait_for_what_hangs() -> None:
    with OpikServer() as server:
        server.faults([{"hang": 10 * PATIENCE_S}])
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(server.url + "is-alive/ping", timeout=0.1)
        until(lambda: server.rows("requests"))
        ended(server.stop)


# --------------------------------------------------------------------------- links


def follow(url: str, kind: str, **names: str) -> str:
    path = base64.b64encode(url.encode()).decode()
    query = "&".join(f"{name}={value}" for name, value in {**names, "path": path}.items())
    with urllib.request.urlopen(f"{url}v1/session/redirect/{kind}?{query}", timeout=PATIENCE_S) as answer:
        return str(answer.url)


def test_links_lead_to_a_page_that_names_what_was_asked_for(server: OpikServer, api: Any) -> None:
    from opik import url_helpers

    candidate = Candidate()
    candidate.prepare(api)
    candidate.push(api)
    dataset, root = next(iter(server.state.datasets)), server.url.removesuffix("api/")
    page = follow(server.url, "optimizations", optimization_id=candidate.optimization, dataset_id=dataset)
    assert page == f"{root}default/optimizations?optimization_id={candidate.optimization}&dataset_id={dataset}"
    trace = candidate.traces[0]["id"]
    with urllib.request.urlopen(
        url_helpers.get_project_url_by_trace_id(trace, server.url), timeout=PATIENCE_S
    ) as answer:
        assert trace in answer.read().decode()


@pytest.mark.parametrize("kind", ["optimizations", "experiments", "datasets", "projects"])
def test_a_link_to_what_is_not_there_is_refused(kind: str, server: OpikServer) -> None:
    names = {"projects": "trace_id"}.get(kind, kind.removesuffix("s") + "_id")
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        follow(server.url, kind, **{names: new_id()})
    caught.value.close()


# --------------------------------------------------------------------------- as a process


def test_a_process_of_its_own_is_driven_over_http() -> None:
    with spawned("--strict") as server:
        for api in _api(server.url):
            candidate = Candidate()
            candidate.prepare(api)
            candidate.push(api)
            server.faults([{"status": 503, "count": 1}])
            assert status_of(lambda api=api: send(api)) == 503
            assert len(server.rows("traces", id=candidate.traces[0]["id"])) == 1
            assert whole(server.summary())
            assert server.summary()["traces"] == 2
            server.reset()
            assert server.summary()["traces"] == 0
