"""Look at runs: list them, show one, watch it to its end.

    python check_results.py --list-runs
    python check_results.py --run-id run_20260101_120000_ab12 --watch --detailed

Reads what is on disk; needs no key and no running process.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from utils.errors import BenchmarkError, UsageError
from utils.validation import refuse_missing_values

USAGE, INTERRUPTED = 2, 130  # exit codes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def option(name: str, values: str | None, text: str) -> Any:
    return typer.Option(name, help=text, show_default=False, metavar=values or " ")


@app.command(epilog="Exit codes: 0 all completed, 1 some failed or not done, 2 usage.")
def main(
    list_runs: Annotated[bool, option("--list-runs", None, "A line for each run")] = False,
    run_id: Annotated[str | None, option("--run-id", "ID", "The run to show")] = None,
    watch: Annotated[bool, option("--watch", None, "Show it again on every change, as long as it runs")] = False,
    detailed: Annotated[bool, option("--detailed", None, "Every task, with what changed in its prompt")] = False,
    json_: Annotated[bool, option("--json", None, "Machine-readable output on stdout")] = False,
    checkpoint_dir: Annotated[
        str, option("--checkpoint-dir", "DIR", "Results directory. Default: ./benchmark_results")
    ] = "./benchmark_results",
) -> None:
    """Show the runs of this machine and their results."""
    if list_runs == bool(run_id):
        raise UsageError("give either --list-runs or --run-id ID; `python check_results.py --help` shows every option")
    from local.inspection import show_run, show_runs, watch_run

    if list_runs:
        raise typer.Exit(show_runs(checkpoint_dir, as_json=json_))
    if watch:
        raise typer.Exit(watch_run(checkpoint_dir, run_id or "", detailed=detailed, as_json=json_))
    raise typer.Exit(show_run(checkpoint_dir, run_id or "", detailed=detailed, as_json=json_))


def cli(argv: list[str]) -> int:
    """Run the command; the exit code. Every error is one line."""
    try:
        command = typer.main.get_command(app)
        refuse_missing_values(argv, [param.opts[0] for param in command.params if not getattr(param, "is_flag", True)])
        return int(command.main(argv, standalone_mode=False) or 0)
    except BenchmarkError as error:
        message = str(error)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except typer.TyperException as error:
        message = f"{error.format_message().rstrip('.')}; `python check_results.py --help` shows every option"
    print(f"error: {message}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(cli(sys.argv[1:]))
