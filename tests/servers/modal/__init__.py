"""A double of Modal's control plane: the real `modal` package (1.6.4) deploys to it, and its inputs really run.

    with running(folder, secrets={"llm-api-keys": {"OPENAI_API_KEY": "k"}}, hide=[checkout]) as plane:
        subprocess.run([sys.executable, "-m", "modal", "deploy", "worker.py"], env={**os.environ, **plane.env})
        plane.faults([{"at": "input", "action": "preempt", "after": 0.5}])
        ...  plane.state(), plane.logs(), plane.kill(), plane.volume("optimizer-benchmarks")

    python -m tests.servers.modal FOLDER '{"secrets": {"llm-api-keys": {"OPENAI_API_KEY": "k"}}, "max_procs": 2}'

Written from the protobuf definitions that `modal` ships. Inputs are executed by the container runtime in that package,
in a process for each container. Where root may mount, a container has a file system of its own: the app's files at
/root, its volumes at their mount paths, and `hide` for what the host has and an image would not.

What happens to a running input:

    preemption, timeout         SIGINT: KeyboardInterrupt, `finally` runs, the runtime commits volumes on its way out;
                                after a preemption the same input runs again, after a timeout it is retried or fails
    cancel()                    InputCancellation, `finally` runs; the container lives on
    cancel(terminate_containers=True), crash
                                SIGKILL: nothing runs, nothing is committed; a crashed input runs again

What is modelled otherwise than on Modal, or not known of Modal:

- An image is recorded, never built: only its ENV and WORKDIR lines have an effect.
- A function that cannot start fails its pending inputs after 3 tries; Modal keeps trying. A lost input is run again up
  to 8 times.
- Retries are made here, also those of `.remote`, which Modal leaves to the caller.
- After a redeploy waiting inputs run the new code. Results are kept for ever. There is one environment, "main".
- Calls have one input each; there are no generators, classes, concurrent inputs, schedules, sandboxes or Dicts.
  What is missing is answered with UNIMPLEMENTED, and requests without a room are in `state()["unimplemented"]`.

The rooms, each importing only from those above it:

    settings     what one can choose
    ground       ids, the events, background jobs, a bell to wait by
    faults       rules for what goes wrong, and when
    rpc          who calls, how to refuse, and the way from a request to the method of its name
    records      apps, functions, calls, containers: what exists
    blobs        bytes by key
    objects      secrets, images, mounts, and the large arguments
    volume       one volume on disk: snapshots, commits, the last writer wins
    volumes      volumes from outside and inside
    queues       values in partitions, each taken once
    calls        submission, results, retries, cancelling
    functions    definitions, variants, statistics
    apps         deploying, running, stopping, logs
    links        isolation without a root of one's own
    containers   their processes, and the side of the control plane that the container runtime talks to
    launch       a script: the isolation of one container, then its interpreter
    scheduler    how many containers, timeouts, background commits
    http_side    transfers of blobs and blocks
    admin        the tests' own questions
    plane        the whole, put together
    server       the whole as a process, from a test
"""

from tests.servers.modal.server import Plane, running

__all__ = ["Plane", "running"]
