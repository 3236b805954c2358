"""The one owner of opik: its REST client alone, without the background sender, retries and exit hook of `opik.Opik()`.

Every call is synchronous, bounded in time and safe to repeat, and fails with `Undelivered`, which says what to do
about it. The four tables that grow go over the SDK's own transport as they are, since its typed models cost ten times
the rest; all else is its typed calls. opik is imported when a client is made.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from utils.errors import UsageError
from utils.imports import HEAVY
from utils.tracing.rows import Row
from utils.tracing.target import Target

CONNECT_S = 3.0
ANSWER_S = 20.0
DATASET_BATCH = 500
LONGEST_PAUSE_S = 60.0  # that a server may ask for

# read by the SDK when it is imported: both would phone home, and neither concerns the benchmark
QUIET = {"OPIK_SENTRY_ENABLE": "false", "OPIK_ANALYTICS_ENABLE": "false", "OPIK_CONSOLE_LOGGING_LEVEL": "CRITICAL"}

Table = Literal["traces", "spans", "scores", "links"]
BULK: dict[Table, tuple[str, str, str]] = {
    "traces": ("POST", "traces/batch", "traces"),
    "spans": ("POST", "spans/batch", "spans"),
    "scores": ("PUT", "traces/feedback-scores", "scores"),
    "links": ("POST", "experiments/items", "experiment_items"),
}


class Undelivered(Exception):
    """The server did not take it. `status` is 0 where it did not answer."""

    def __init__(self, message: str, status: int = 0, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.pause_s = min(pause_s, LONGEST_PAUSE_S)  # that it asks for

    @property
    def is_final(self) -> bool:
        """True where it will take nothing from us, now or later."""
        return self.status in (401, 403)

    @property
    def is_refusal(self) -> bool:
        """True where these very rows will never be taken."""
        return 400 <= self.status < 500 and self.status not in (401, 403, 408, 429)


class Client(Protocol):
    """What is asked of a server. Every call may raise Undelivered."""

    def check(self) -> None:
        """Raises Undelivered where the key is refused."""

    def find_dataset(self, name: str) -> tuple[str, int] | None:
        """The id of a dataset and how many rows it has; None if there is none."""

    def make_dataset(self, name: str) -> None:
        """Make a dataset; one of that name stays."""

    def put_rows(self, dataset: str, group: str, items: Sequence[Row]) -> None:
        """Create or replace rows of the dataset with this id."""

    def put_optimization(self, row: Row) -> None:
        """Create it; one that is there is replaced, or stays."""

    def set_status(self, optimization: str, status: str, error: Row | None) -> None:
        """How the optimization stands."""

    def put_experiment(self, row: Row) -> None:
        """Create it; one that is there stays."""

    def finish(self, experiments: Sequence[str]) -> None:
        """Nothing more will come for these."""

    def put(self, table: Table, rows: Sequence[Row]) -> None:
        """Create or replace rows of one table, all or none."""

    def has(self, table: Literal["traces", "spans"], row_id: str) -> bool:
        """Whether it is there."""

    def close(self) -> None:
        """Let go of the connections."""


class OpikClient:
    """The real one."""

    def __init__(self, target: Target) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        logging.getLogger("opik").setLevel(logging.CRITICAL)
        for noisy in ("httpx", "httpcore"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        try:
            with HEAVY:
                import httpx
                from opik import httpx_client, rest_api
                from opik.rest_api.core.api_error import ApiError
        except ImportError as error:  # of another age, or something else of that name
            raise UsageError(f"the package opik cannot be used ({error}); pip install --upgrade opik") from None

        self._project = target.project
        self._url = target.url
        # a ValueError is an answer that the SDK's models cannot read: of a proxy, say
        self._errors: tuple[type[Exception], ...] = (ApiError, httpx.HTTPError, ValueError)
        self._http = httpx_client.get(
            workspace=target.workspace,
            api_key=target.api_key,
            check_tls_certificate=target.check_tls,
            compress_json_requests=True,
            compression_level=1,
        )
        self._http.timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)  # the SDK's own are minutes
        self._api = rest_api.OpikApi(base_url=target.url, httpx_client=self._http)
        # else typed calls would bring a limit of their own, a minute for everything
        self._api._client_wrapper._timeout = httpx.USE_CLIENT_DEFAULT  # type: ignore[assignment]

    def check(self) -> None:
        self._call(lambda: self._api.check.access(request={}))

    def find_dataset(self, name: str) -> tuple[str, int] | None:
        try:
            found = self._call(
                lambda: self._api.datasets.get_dataset_by_identifier(dataset_name=name, project_name=self._project)
            )
        except Undelivered as error:
            if error.status == 404:
                return None
            raise
        return str(found.id), int(found.dataset_items_count or 0)

    def make_dataset(self, name: str) -> None:
        self._create(lambda: self._api.datasets.create_dataset(name=name, project_name=self._project))

    def put_rows(self, dataset: str, group: str, items: Sequence[Row]) -> None:
        put: Callable[..., None] = self._api.datasets.create_or_update_dataset_items
        for first in range(0, len(items), DATASET_BATCH):
            batch = items[first : first + DATASET_BATCH]
            self._call(partial(put, dataset_id=dataset, batch_group_id=group, items=batch))

    def put_optimization(self, row: Row) -> None:
        self._create(lambda: self._api.optimizations.create_optimization(**row))

    def set_status(self, optimization: str, status: str, error: Row | None) -> None:
        extra: dict[str, Any] = {"error_info": error} if error else {}
        update: Callable[..., None] = self._api.optimizations.update_optimizations_by_id
        self._call(lambda: update(optimization, status=status, **extra))

    def put_experiment(self, row: Row) -> None:
        self._create(lambda: self._api.experiments.create_experiment(**row))

    def finish(self, experiments: Sequence[str]) -> None:
        self._call(lambda: self._api.experiments.finish_experiments(ids=experiments))

    def put(self, table: Table, rows: Sequence[Row]) -> None:
        method, path, name = BULK[table]
        self._request(method, path, {name: list(rows)})

    def has(self, table: Literal["traces", "spans"], row_id: str) -> bool:
        try:
            self._request("GET", f"{table}/{row_id}")
        except Undelivered as error:
            if error.status == 404:
                return False
            raise
        return True

    def close(self) -> None:
        self._http.close()

    def _request(self, method: str, path: str, body: Row | None = None) -> None:
        reply = self._call(lambda: self._http.request(method, f"{self._url}v1/private/{path}", json=body))
        if reply.status_code >= 300:
            raise _undelivered(path, reply.status_code, reply.text, reply.headers)

    def _create(self, call: Callable[[], Any]) -> None:
        try:
            self._call(call)
        except Undelivered as error:
            if error.status != 409:  # it is there: releases differ in whether that is an error
                raise

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._errors as error:
            status = int(getattr(error, "status_code", None) or 0)
            headers = getattr(error, "headers", None) or {}
            body = getattr(error, "body", None)
            said = body.get("message", body) if isinstance(body, dict) else body
            text = str(said or error) if status else (str(error) or type(error).__name__)
            raise _undelivered("", status, text, headers) from None


def _undelivered(path: str, status: int, text: str, headers: Any) -> Undelivered:
    said = " ".join(text.split())[:300]
    where = f"{path}: " if path else ""
    pause_s = 0.0
    for name in ("retry-after", "ratelimit-reset"):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            pause_s = max(pause_s, float({key.lower(): value for key, value in dict(headers).items()}[name]))
    return Undelivered(f"{where}{status} {said}" if status else f"{where}{said}", status, pause_s)
