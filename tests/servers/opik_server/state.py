"""What the double holds, how rows merge, and what a real backend would refuse.

Traces, spans, scores and experiment items are upserts: a row that comes again under its id is merged, and counted in
`repeated`, which is harmless. What a reader of the web pages would see twice is in `doubled`.

Strict, it refuses what a backend is known to refuse, and an item of an unknown experiment, which a backend takes and
never shows. Otherwise it stores such rows too. Either way they are listed in `problems`.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]

MAX_BATCH = 1000  # rows, in every call that takes a list
MAX_BULK_BYTES = 4 << 20  # of the unpacked body, in experiments/items/bulk alone
NEEDED = {"trace": ("start_time",), "span": ("trace_id", "start_time")}


class Refused(Exception):
    """A request that is answered with this status and not stored."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def new_id(age_s: float = 0.0) -> str:
    """A UUIDv7 made so many seconds ago: 48 bits of milliseconds, the rest random."""
    millis = int((time.time() - age_s) * 1000)
    value = millis << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))  # variant


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _uuid7(value: object) -> uuid.UUID | None:
    try:
        found = uuid.UUID(str(value))
    except ValueError:
        return None
    return found if found.version == 7 else None


class State:
    """Everything received since the last reset. Handlers hold `lock`; a test reads when nothing is in flight."""

    COLLECTIONS = (
        "projects",
        "traces",
        "spans",
        "scores",
        "datasets",
        "items",
        "experiments",
        "experiment_items",
        "optimizations",
        "requests",
        "unknown",
        "problems",
    )

    def __init__(self, strict: bool = False, window_h: float = 24.0, workspace: str = "default", key: str = "") -> None:
        self.strict = strict
        self.window_h = window_h  # the time in the id of a new trace or span may be so far from now; 0: not looked at
        self.workspace = workspace  # of whoever names none
        self.asking = workspace  # of the request that is being answered
        self.key = key  # wanted as Authorization, if given
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        with self.lock:
            self.projects: dict[str, Row] = {}
            self.traces: dict[str, Row] = {}
            self.spans: dict[str, Row] = {}
            self.scores: dict[tuple[str, str, str], Row] = {}  # (trace or span, its id, name): a second one replaces
            self.datasets: dict[str, Row] = {}
            self.items: dict[str, Row] = {}  # of datasets
            self.experiments: dict[str, Row] = {}
            self.experiment_items: dict[str, Row] = {}
            self.optimizations: dict[str, Row] = {}
            self.requests: list[Row] = []
            self.unknown: list[Row] = []  # requests for which there is no route here
            self.problems: list[str] = []
            self.repeated: Counter[str] = Counter()  # kind -> creates of an id that was there
            self._made: set[str] = set()  # ids of traces and spans that were created, not only updated
            self._patched: dict[str, set[str]] = {}  # id -> fields that a later create must not overwrite

    # ------------------------------------------------------------------- what is refused

    def object_to(self, message: str, status: int = 400) -> None:
        """Lists what a real backend would refuse, and refuses it if strict."""
        self.problems.append(message)
        if self.strict:
            raise Refused(status, message)

    def check_id(self, kind: str, value: object) -> None:
        if _uuid7(value) is None:
            self.object_to(f"{kind} id is not a UUIDv7: {value!r}")

    def check_age(self, kind: str, value: object) -> None:
        """Backends may refuse rows whose id is too old: a late upload has to make new ids."""
        found = _uuid7(value)
        if found is None or not self.window_h:
            return
        age_h = (time.time() - (found.int >> 80) / 1000) / 3600
        if abs(age_h) > self.window_h:
            self.object_to(f"{kind} id is {age_h:.1f} h old, outside the window of {self.window_h:g} h")

    def check_place(self, kind: str, held: Row | None) -> None:
        """Ids are looked up over all workspaces: one that another workspace holds is a conflict, strict or not."""
        project = self.projects.get(self.project_of(held)) if held else None
        if project and project["workspace"] != self.asking:
            self.problems.append(f"{kind} {held and held['id']} is of workspace {project['workspace']!r}")
            raise Refused(409, f"{kind} is of another workspace")

    def project_of(self, row: Row) -> str:
        """The id of a row's project; an item of a dataset has its dataset's."""
        dataset = self.datasets.get(row.get("dataset_id") or "", {})
        return str(row.get("project_id") or dataset.get("project_id") or "")

    def check_batch(self, kind: str, rows: Sequence[Row], needed: Sequence[str] = ()) -> None:
        """The bounds of a list, and the fields without which no row of it is taken."""
        if not 1 <= len(rows) <= MAX_BATCH:
            self.object_to(f"a batch of {len(rows)} {kind} rows", 422)
        for name in needed:
            if missing := sum(row.get(name) is None for row in rows):
                self.object_to(f"{missing} {kind} rows without {name}", 422)

    # ------------------------------------------------------------------- projects and datasets

    def find_project(self, name: str | None) -> Row | None:
        wanted = (name or "Default Project").lower(), self.asking
        return next((row for row in self.projects.values() if (row["name"].lower(), row["workspace"]) == wanted), None)

    def project(self, name: str | None, project_id: str | None = None) -> Row:
        """The project of that id or name; made if there is none, as the backend does."""
        found = self.projects.get(project_id or "") or self.find_project(name)
        if found is None:
            made = {"id": new_id(), "created_at": now(), "visibility": "private", "workspace": self.asking}
            found = {**made, "name": name or "Default Project"}
            self.projects[found["id"]] = found
        return found

    def find_dataset(self, name: str | None, project_name: str | None) -> Row | None:
        """Names are unique within a project; without a project it is the first of that name."""
        project = self.find_project(project_name) if project_name else None
        if project_name and project is None:
            return None
        for dataset in self.datasets.values():
            if dataset["name"] == name and project in (None, self.projects[dataset["project_id"]]):
                return dataset
        return None

    def dataset(self, name: str, project_name: str | None, wanted_by: str = "") -> Row:
        """The dataset of that name, made if there is none; a backend does so silently, here it is a problem."""
        found = self.find_dataset(name, project_name)
        if found is None:
            if wanted_by:
                self.problems.append(f"{wanted_by} names unknown dataset {name!r}")
            project = self.project(project_name)
            found = {"id": new_id(), "name": name, "project_id": project["id"], "created_at": now(), "versions": []}
            self.datasets[found["id"]] = found
        return found

    def put_items(self, dataset: Row, rows: Sequence[Row], group: str | None) -> None:
        """Upserts by id; batches of one group make one version of the dataset. Equal contents are not looked for."""
        self.check_batch("dataset item", rows, ("data", "source"))
        for row in rows:
            row["id"] = row.get("id") or new_id()
            self.check_id("dataset item", row["id"])
        for row in rows:
            self.check_place("dataset item", self.items.get(row["id"]))
        for row in rows:
            self.repeated["dataset item"] += row["id"] in self.items
            self.items[row["id"]] = {**row, "dataset_id": dataset["id"]}
        versions = dataset["versions"]
        if not group or versions[-1:] != [group]:
            versions.append(group)

    def items_of(self, dataset_id: str) -> list[Row]:
        return [item for item in self.items.values() if item["dataset_id"] == dataset_id]

    # ------------------------------------------------------------------- traces, spans, scores

    def table(self, kind: str) -> dict[str, Row]:
        return {"trace": self.traces, "span": self.spans}[kind]

    def put_many(self, kind: str, rows: Sequence[Row]) -> None:
        """Creates traces or spans; one bad row refuses the batch."""
        self.check_batch(kind, rows, NEEDED[kind])
        for row in rows:
            row["id"] = row.get("id") or new_id()
            self.check_id(kind, row["id"])
            self.check_age(kind, row["id"])
            self.check_place(kind, self.table(kind).get(row["id"]))
        for row in rows:
            self._create(kind, row)

    def _create(self, kind: str, row: Row) -> None:
        """A create that comes after an update keeps the update's fields, since batches overtake each other."""
        project = self.project(row.get("project_name"), row.get("project_id"))
        row |= {"project_id": project["id"], "project_name": project["name"]}
        self.repeated[kind] += row["id"] in self._made
        self._made.add(row["id"])
        patched = self._patched.get(row["id"], set())
        old = self.table(kind).setdefault(row["id"], {})
        old.update({name: value for name, value in row.items() if value is not None and name not in patched})

    def patch(self, kind: str, row_id: str, row: Row) -> None:
        """An update, which may arrive before its create."""
        self.check_id(kind, row_id)
        new = {name: value for name, value in row.items() if value is not None}
        self._patched.setdefault(row_id, set()).update(new.keys() - {"project_name", "project_id"})
        self.table(kind).setdefault(row_id, {"id": row_id}).update(new)

    def put_scores(self, kind: str, rows: Sequence[Row]) -> None:
        self.check_batch(f"{kind} score", rows, ("id", "name", "value", "source"))
        for row in rows:
            self.check_id(kind, row["id"])
        for row in rows:
            key = (kind, row["id"], row["name"])
            self.repeated["score"] += key in self.scores
            self.scores[key] = {**row, "kind": kind}

    def scores_of(self, kind: str, row_id: str) -> list[Row]:
        return [row for (of, owner, _), row in self.scores.items() if (of, owner) == (kind, row_id)]

    # ------------------------------------------------------------------- experiments

    def put_experiment(self, row: Row) -> Row:
        """Creates an experiment. One that is there stays as it is and the answer is the same: so does the backend."""
        row["id"] = row.get("id") or new_id()
        self.check_id("experiment", row["id"])
        self.check_place("experiment", self.experiments.get(row["id"]))
        optimization = row.get("optimization_id")
        if optimization and optimization not in self.optimizations:
            self.problems.append(f"experiment {row['id']} names unknown optimization {optimization}")
        project = self.project(row.get("project_name"), row.get("project_id"))
        dataset = self.dataset(row["dataset_name"], row.get("project_name"), f"experiment {row['id']}")
        self.repeated["experiment"] += row["id"] in self.experiments
        made = {"dataset_id": dataset["id"], "project_id": project["id"], "created_at": now()}
        return self.experiments.setdefault(row["id"], {"name": f"experiment {len(self.experiments)}", **row, **made})

    def put_experiment_items(self, rows: Sequence[Row]) -> None:
        self.check_batch("experiment item", rows, ("experiment_id", "dataset_item_id", "trace_id"))
        for row in rows:
            row["id"] = row.get("id") or new_id()
            for name in ("id", "dataset_item_id", "trace_id"):
                self.check_id(f"experiment item's {name.removesuffix('_id')}", row[name])
            if row["experiment_id"] not in self.experiments:
                self.object_to(f"experiment item of unknown experiment {row['experiment_id']}", 409)
            self.check_place("dataset item", self.items.get(row["dataset_item_id"]))
            self.check_place("trace", self.traces.get(row["trace_id"]))
        for row in rows:
            self.repeated["experiment item"] += row["id"] in self.experiment_items
            self.experiment_items[row["id"]] = row

    def traces_of(self, experiment_id: str) -> set[str]:
        return {row["trace_id"] for row in self.experiment_items.values() if row["experiment_id"] == experiment_id}

    def put_optimization(self, row: Row) -> Row:
        """An upsert: the whole row is replaced, so a create that is repeated at the end sets the status back."""
        row["id"] = row.get("id") or new_id()
        self.check_id("optimization", row["id"])
        project = self.project(row.get("project_name"), row.get("project_id"))
        dataset = self.dataset(row["dataset_name"], row.get("project_name"), f"optimization {row['id']}")
        old = self.optimizations.get(
            row["id"], {"created_at": now(), "name": f"optimization {len(self.optimizations)}"}
        )
        self.repeated["optimization"] += row["id"] in self.optimizations
        made = {"dataset_id": dataset["id"], "project_id": project["id"], "created_at": old["created_at"]}
        self.optimizations[row["id"]] = {
            **row,
            **made,
            "name": row.get("name") or old["name"],
            "last_updated_at": now(),
        }
        return self.optimizations[row["id"]]

    # ------------------------------------------------------------------- what is amiss

    def summary(self) -> Row:
        """Counts of all that is held, of what is not whole in it, and of requests by route and status."""
        with self.lock:
            counts: Row = {name: len(getattr(self, name)) for name in self.COLLECTIONS}
            answers = Counter(f"{row['route']} {row['status']}" for row in self.requests)
            return counts | self._amiss() | {"repeated": dict(+self.repeated), "answers": dict(answers)}

    def _amiss(self) -> Row:
        spans, items = self.spans.values(), self.experiment_items.values()
        seen = Counter((row["experiment_id"], row["dataset_item_id"]) for row in items)
        return {
            "doubled": seen.total() - len(seen),  # an example that stands twice in an experiment
            "open_traces": sum(not row.get("end_time") for row in self.traces.values()),
            "open_spans": sum(not row.get("end_time") for row in spans),
            "orphan_spans": sum(self._is_orphan(row) for row in spans),
            "orphan_scores": sum(owner not in self.table(kind) for kind, owner, _ in self.scores),
            "dangling_items": sum(self._dangles(row) for row in items),
        }

    def _is_orphan(self, span: Row) -> bool:
        parent = str(span.get("parent_span_id") or "")
        lost = bool(parent) and self.spans.get(parent, {}).get("trace_id") != span.get("trace_id")
        return lost or span.get("trace_id") not in self.traces

    def _dangles(self, item: Row) -> bool:
        named = ((self.experiments, "experiment_id"), (self.items, "dataset_item_id"), (self.traces, "trace_id"))
        return any(item[name] not in table for table, name in named)
