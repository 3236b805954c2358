"""What is deployed on Modal: `modal deploy benchmark_worker.py`.

Three functions with one image: `run_task` does one task, `preflight` tells a client what the deployed code is and
whether it can run, `collect` folds the results of a large run into one file. What they do is in `modal_utils/`.
"""

from __future__ import annotations

from typing import Any

import modal

from modal_utils.deployment import APP, COLLECT, LONGEST_S, MOUNT, PREFLIGHT, RUN_TASK, image, volume

app = modal.App(APP)
packages = image()
results = volume()


@app.function(
    name=RUN_TASK,
    image=packages,
    volumes={MOUNT: results},
    cpu=1.0,
    memory=(1024, 4096),  # MiB: kept, and at most
    timeout=LONGEST_S,
    startup_timeout=600,
    retries=0,  # a task's failure is a result; a lost container's input comes again without this
    scaledown_window=60,  # seconds that an idle container waits, and is paid for
)
def run_task(order: dict[str, Any]) -> dict[str, Any]:
    """One attempt of one task; `order` is an encoded `worker_core.Order`."""
    import os
    from pathlib import Path

    from modal_utils.storage import RUNS, Mounted
    from modal_utils.worker_core import Order, run_optimization_task
    from utils.serialization import decode

    decoded = decode(Order, order)
    blobs = Mounted(Path(MOUNT) / RUNS / decoded.run_id, results.commit, results.reload)
    call = modal.current_function_call_id() or ""
    return run_optimization_task(decoded, blobs, call, os.environ.get("MODAL_TASK_ID", ""))


@app.function(name=PREFLIGHT, image=packages, timeout=300, startup_timeout=600, scaledown_window=2)
def preflight(models: list[str], params: dict[str, Any], metric: str, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """What is deployed here, and what stands in the way of these models, this metric and these (encoded) tasks."""
    from modal_utils.worker_core import look_around
    from utils.records import TaskSpec
    from utils.serialization import decode

    return look_around(models, params, metric, [decode(TaskSpec, task) for task in tasks])


@app.function(name=COLLECT, image=packages, volumes={MOUNT: results}, timeout=300, scaledown_window=2)
def collect(run_id: str) -> str:
    """Fold the results that a run has into one file; its name."""
    from pathlib import Path

    from modal_utils.storage import RUNS, Mounted, summarize

    return summarize(Mounted(Path(MOUNT) / RUNS / run_id, results.commit, results.reload), run_id)
