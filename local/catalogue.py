"""What can be named on the command line, as `--list` shows it."""

from __future__ import annotations

import os
from dataclasses import MISSING, fields
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from benchmark_config import DATASETS, MODELS, OPTIMIZERS, Settings
from utils.llm.simulated import SIMULATED
from utils.metrics.registry import METRICS
from utils.serialization import dumps, json_schema

NAMES = 31  # columns for the names, the same in every part


def catalogue() -> dict[str, Any]:
    """Datasets, optimizers with their parameters, models and metrics, as plain data."""
    return {
        "datasets": {
            name: {
                "summary": spec.summary,
                "metrics": [metric.name for metric in spec.metrics],
                "licence": spec.licence,
                "is_fixed": all(source.is_fixed for source in spec.sources),
            }
            for name, spec in DATASETS.items()
        },
        "optimizers": {
            name: {
                "summary": (type(row).__doc__ or "").split("\n")[0],
                "params": {
                    field.name: getattr(row, field.name) for field in fields(row) if field.default is not MISSING
                },
            }
            for name, row in OPTIMIZERS.items()
        },
        "models": {
            **{name: f"key in {variable}" for name, variable in MODELS.items()},
            **dict(SIMULATED),
        },
        "metrics": {name: (type(metric).__doc__ or "").split("\n")[0] for name, metric in METRICS.items()},
    }


def print_catalogue(*, as_json: bool) -> None:
    """Print what there is."""
    found = catalogue()
    if as_json:
        print(dumps(found, indent=1))
        return
    console = Console()
    _print(
        console,
        "datasets",
        {name: _dataset(row) for name, row in found["datasets"].items()},
    )
    _print(console, "optimizers", {name: _optimizer(row) for name, row in found["optimizers"].items()})
    ready = {name: f"{text}{_key_state(name)}" for name, text in found["models"].items()}
    _print(console, "models (any other that litellm knows can be named; sim/... are simulated)", ready)
    _print(console, "metrics (or package.module:function)", found["metrics"])


def print_schema() -> None:
    """Print the JSON schema of a manifest."""
    print(dumps(json_schema(Settings), indent=1))


def _print(console: Console, title: str, rows: dict[str, str]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, min_width=NAMES)
    table.add_column()
    for name, text in rows.items():
        table.add_row(f"  {name}", escape(text))
    console.print(Text(title, style="bold"), table, "", sep="\n")


def _dataset(row: dict[str, Any]) -> str:
    said = f"{row['summary']}; {', '.join(row['metrics'])}"
    return said if row["is_fixed"] else f"{said}; no fixed revision at the hub"


def _optimizer(row: dict[str, Any]) -> str:
    params = ", ".join(f"{name}={value}" for name, value in row["params"].items())
    return "\n".join(filter(None, (row["summary"], params)))


def _key_state(name: str) -> str:
    variable = MODELS.get(name)
    if variable is None:
        return ""
    return ", set" if os.environ.get(variable) else ", not set"
