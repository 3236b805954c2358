"""Run as a script: loads the named datasets from the hub at HF_ENDPOINT, prints one JSON object a line.

A process of its own, because huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import importlib
import json
import sys

from utils.dataset_specs.base import load_splits
from utils.errors import UsageError
from utils.serialization import encode


def main(names: list[str]) -> None:
    for name in names:
        spec = importlib.import_module(f"utils.dataset_specs.{name}").SPEC
        try:
            splits = load_splits(spec, "hub")
        except UsageError as error:
            print(json.dumps({"name": name, "error": str(error)}), flush=True)
        else:
            print(json.dumps({"name": name, "splits": encode(splits)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
