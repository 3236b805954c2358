"""Look at runs: list them, show one, watch it to its end, copy it here.

    python check_results.py --list-runs                                          runs on this machine
    python check_results.py --run-id run_20260101_120000_ab12 --watch --detailed
    python check_results.py --modal --run-id ID --pull ./benchmark_results       runs on Modal
    modal run check_results.py --run-id ID --watch                               the same, by Modal's own command

Reads what is written; needs no key and no running process.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # what is imported below takes a while: a Ctrl-C meanwhile is one line, too
    from utils.interrupts import interrupt, leave

    signal.signal(signal.SIGINT, leave)

import gc
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from utils.errors import BenchmarkError, UsageError, one_line, refused_by_system
from utils.interrupts import INTERRUPTED
from utils.validation import no_modal, refuse_missing_values

if TYPE_CHECKING:
    from local.inspection import Source

USAGE = 2  # exit code
DEFAULT_DIR = "./benchmark_results"

command_line = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def option(name: str, values: str | None, text: str) -> Any:
    return typer.Option(name, help=text, show_default=False, metavar=values or " ")


@command_line.command(
    epilog="Exit codes: 0 all completed, 1 some failed or not done, 2 usage, 3 tasks wait for more money."
)
def main(
    list_runs: Annotated[bool, option("--list-runs", None, "A line for each run")] = False,
    run_id: Annotated[str | None, option("--run-id", "ID", "The run to show")] = None,
    watch: Annotated[bool, option("--watch", None, "Show it again on every change, as long as it runs")] = False,
    detailed: Annotated[bool, option("--detailed", None, "Every task, with what changed in its prompt")] = False,
    json_: Annotated[bool, option("--json", None, "Machine-readable output on stdout")] = False,
    modal: Annotated[bool, option("--modal", None, "Runs on Modal")] = False,
    pull: Annotated[str | None, option("--pull", "DIR", "Copy the run from Modal into this results directory")] = None,
    push_traces: Annotated[bool, option("--push-traces", None, "Send to Opik what it lacks of the run")] = False,
    trace_items: Annotated[
        str, option("--trace-items", "WHICH", "Of these: all, failures, or so many a candidate. Default: all")
    ] = "all",
    checkpoint_dir: Annotated[
        str, option("--checkpoint-dir", "DIR", "Results directory. Default: ./benchmark_results")
    ] = DEFAULT_DIR,
) -> None:
    """Show runs and their results."""
    if list_runs == bool(run_id):
        raise UsageError("give either --list-runs or --run-id ID; `python check_results.py --help` shows every option")
    if pull is not None:
        raise typer.Exit(pull_run(run_id, pull))
    if push_traces:
        raise typer.Exit(push(run_id, checkpoint_dir, trace_items, is_modal=modal))
    source = modal_runs() if modal else local_runs(checkpoint_dir)
    raise typer.Exit(show(source, run_id or "", watch=watch, detailed=detailed, as_json=json_))


def show(source: Source, run_id: str, *, watch: bool, detailed: bool, as_json: bool) -> int:
    """All runs, or one; the exit code."""
    from local.inspection import show_run, show_runs, watch_run

    if not run_id:
        return show_runs(source, as_json=as_json)
    return (watch_run if watch else show_run)(source.open(run_id), detailed=detailed, as_json=as_json)


def local_runs(checkpoint_dir: str) -> Source:
    from local.inspection import LocalRuns

    return LocalRuns(checkpoint_dir)


def modal_runs() -> Source:
    try:
        from modal_utils.coordinator import ModalVenue
        from modal_utils.display import ModalRuns
    except ModuleNotFoundError as error:
        raise no_modal(error) from None
    from local.launch import open_run

    venue = ModalVenue()
    return ModalRuns(venue, lambda run_id: open_run(venue, run_id, "--run-id"))


def pull_run(run_id: str | None, folder: str) -> int:
    if not run_id:
        raise UsageError("--pull copies one run; name it with --run-id ID")
    modal_runs()  # says so where the package modal is missing
    from rich.console import Console

    from modal_utils.coordinator import ModalVenue
    from modal_utils.display import pull

    return pull(ModalVenue(), run_id, folder, Console())


def push(run_id: str | None, checkpoint_dir: str, items: str, *, is_modal: bool) -> int:
    if not run_id:
        raise UsageError("--push-traces sends one run; name it with --run-id ID")
    from local.inspection import push_run
    from local.launch import open_run

    if not is_modal:
        from local.venue import LocalVenue

        here = LocalVenue(checkpoint_dir)
        return push_run(open_run(here, run_id, "--run-id"), items, here.flags)
    modal_runs()  # says so where the package modal is missing
    from modal_utils.coordinator import ModalVenue
    from utils.archive import RunArchive

    there = ModalVenue()
    archive = open_run(there, run_id, "--run-id")
    # who is at work is asked of the calls: that a task has begun says nothing of whether it still runs
    return push_run(RunArchive(archive.blobs, run_id), items, there.flags, lambda: there.at_work(archive))


def cli(argv: list[str]) -> int:
    """Run the command; the exit code. Every error is one line."""
    try:
        command = typer.main.get_command(command_line)
        refuse_missing_values(argv, [param.opts[0] for param in command.params if not getattr(param, "is_flag", True)])
        return int(command.main(argv, standalone_mode=False) or 0)
    except BenchmarkError as error:
        message = str(error)
    except OSError as error:
        message = refused_by_system(error)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except typer.TyperException as error:
        message = f"{error.format_message().rstrip('.')}; `python check_results.py --help` shows every option"
    print(f"error: {one_line(message)}", file=sys.stderr)
    return USAGE


if "modal" in sys.modules:  # `modal run check_results.py` imports this file, and looks for an app in it
    import modal as modal_package

    app = modal_package.App("check-results")

    @app.local_entrypoint()
    def runs(
        list_runs: bool = False,
        run_id: str = "",
        watch: bool = False,
        detailed: bool = False,
        json: bool = False,
        pull: str = "",
        push_traces: bool = False,
    ) -> None:
        flags = {"watch": watch, "detailed": detailed, "json": json, "push-traces": push_traces}
        words = [f"--{name}" for name, on in flags.items() if on]
        words += ["--list-runs"] * list_runs + ["--run-id", run_id] * bool(run_id) + ["--pull", pull] * bool(pull)
        sys.exit(cli(["--modal", *words]))


if __name__ == "__main__":
    gc.disable()  # what a look makes lives to its end: searching it for garbage would take a quarter of the time
    signal.signal(signal.SIGINT, interrupt)
    sys.exit(cli(sys.argv[1:]))
