"""Run a grid of prompt optimizers: dataset x optimizer x model x seed, on this machine or on Modal.

    python run_benchmark.py --demo-datasets gsm8k --optimizers few_shot --models openai/gpt-4o-mini --test-mode

Parses, and hands over to the session with the place where the workers are; what happens there is in `local/` and in
`modal_utils/`.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # what is imported below takes a while: a Ctrl-C meanwhile is one line, too
    from utils.interrupts import interrupt, leave

    signal.signal(signal.SIGINT, leave)

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from utils.errors import BenchmarkError, UsageError, one_line, refused_by_system
from utils.interrupts import INTERRUPTED
from utils.validation import (
    any_number,
    named,
    no_modal,
    one_of_seeds,
    one_of_switches,
    refuse_missing_values,
    spread_lists,
    whole_number,
)

if TYPE_CHECKING:
    from benchmark_task import Venue

USAGE = 2  # exit code
DEFAULT_DIR = "./benchmark_results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

GRID, MODEL, LIMITS, RUN, OUTPUT = "What to run", "Models and prompts", "Limits", "The run", "Output"

Names = list[str] | None


def option(panel: str, name: str, values: str | None, text: str, *others: str, **more: Any) -> Any:
    """An option as `--help` shows it; `values` stands for what is typed after its name, None for a switch."""
    return typer.Option(
        name, *others, help=text, rich_help_panel=panel, show_default=False, metavar=values or " ", **more
    )


def whole(panel: str, name: str, text: str) -> Any:
    return option(panel, name, "N", text, parser=partial(whole_number, name))


def number(panel: str, name: str, values: str, text: str) -> Any:
    return option(panel, name, values, text, parser=partial(any_number, name))


@app.command(epilog="Exit codes: 0 all completed, 1 some failed, 2 usage, 3 run budget reached, 130 interrupted.")
def main(
    demo_datasets: Annotated[
        Names, option(GRID, "--demo-datasets", "NAME ...", "Datasets. Default: all", "--datasets")
    ] = None,
    optimizers: Annotated[
        Names, option(GRID, "--optimizers", "NAME ...", "Optimizers; NAME:k=v,k=v is a variant. Default: all")
    ] = None,
    models: Annotated[
        Names,
        option(
            GRID,
            "--models",
            "NAME ...",
            "Any models that litellm knows, or sim/... Default: the configured ones whose key is set",
        ),
    ] = None,
    seed: Annotated[int | None, whole(GRID, "--seed", "Random seed. Default: 42")] = None,
    seeds: Annotated[Names, option(GRID, "--seeds", "N ...", "Several seeds: repeats of every cell")] = None,
    data: Annotated[
        str | None, option(GRID, "--data", "WHERE", "Rows from: hub, sample (bundled), or a folder. Default: hub")
    ] = None,
    dataset_csv: Annotated[
        str | None, option(GRID, "--dataset-csv", "FILE", "Own rows: columns user_input, ground_truth_output")
    ] = None,
    split: Annotated[
        str | None,
        option(GRID, "--split", "A/B/C", "Shares of train, validation, test in own rows. Default: 0.25/0.25/0.5"),
    ] = None,
    test_mode: Annotated[
        bool, option(GRID, "--test-mode", None, "5 examples a split, 60 calls a task: a quick try")
    ] = False,
    config: Annotated[
        str | None, option(GRID, "--config", "FILE", "A manifest, YAML or JSON; options beside it win")
    ] = None,
    optimizer_model: Annotated[
        str | None, option(MODEL, "--optimizer-model", "NAME", "Edits the prompts. Default: the task's model")
    ] = None,
    judge_model: Annotated[
        str | None, option(MODEL, "--judge-model", "NAME", "Grades, where a metric asks. Default: the task's model")
    ] = None,
    model_params: Annotated[
        Names, option(MODEL, "--model-params", "K=V ...", "Parameters of the models, sent as they are")
    ] = None,
    prompt: Annotated[
        str | None, option(MODEL, "--prompt", "TEXT", "A seed prompt in place of the datasets' own")
    ] = None,
    prompt_file: Annotated[str | None, option(MODEL, "--prompt-file", "FILE", "The same, from a file")] = None,
    output_prompt: Annotated[
        str | None, option(MODEL, "--output-prompt", "TEXT", "The text that stands after the input in the seed prompt")
    ] = None,
    metric: Annotated[
        str | None, option(MODEL, "--metric", "NAME", "The objective: a name of --list, or package.module:function")
    ] = None,
    budget: Annotated[
        int | None, whole(LIMITS, "--budget", "Task calls of a task. Default: 1000, in test mode 60")
    ] = None,
    max_cost: Annotated[float | None, number(LIMITS, "--max-cost", "USD", "Money of a task")] = None,
    max_tokens: Annotated[int | None, whole(LIMITS, "--max-tokens", "Tokens of a task")] = None,
    max_seconds: Annotated[float | None, number(LIMITS, "--max-seconds", "S", "Time of a task")] = None,
    run_max_cost: Annotated[
        float | None, number(LIMITS, "--run-max-cost", "USD", "Money of the whole run; exit code 3 when reached")
    ] = None,
    max_failed_share: Annotated[
        float | None,
        number(LIMITS, "--max-failed-share", "SHARE", "A task fails if more of its calls do. Default: 0.1"),
    ] = None,
    max_concurrent: Annotated[int | None, whole(LIMITS, "--max-concurrent", "Workers at a time. Default: 5")] = None,
    max_in_flight: Annotated[
        int | None, whole(LIMITS, "--max-in-flight", "Open calls to a provider, all workers. Default: 32")
    ] = None,
    task_timeout: Annotated[
        float | None, number(LIMITS, "--task-timeout", "S", "A task is given up after so long. Default: 86400")
    ] = None,
    call_timeout: Annotated[
        float | None, number(LIMITS, "--call-timeout", "S", "A model call is tried again after so long. Default: 120")
    ] = None,
    modal: Annotated[bool, option(RUN, "--modal", None, "Workers and files on Modal")] = False,
    run_id: Annotated[
        str | None, option(RUN, "--run-id", "ID", "Name the run; asked for again it goes on, longer lists extend it")
    ] = None,
    resume_run_id: Annotated[
        str | None, option(RUN, "--resume-run-id", "ID", "Go on with what a run has not finished")
    ] = None,
    retry_failed_run_id: Annotated[
        str | None, option(RUN, "--retry-failed-run-id", "ID", "Run the failed tasks of a run again")
    ] = None,
    error_class: Annotated[
        Names, option(RUN, "--error-class", "NAME ...", "Of a retry: only failures of these classes")
    ] = None,
    cancel_run_id: Annotated[
        str | None, option(RUN, "--cancel-run-id", "ID", "With --modal: take back what a run has not finished")
    ] = None,
    delete_run_id: Annotated[
        str | None, option(RUN, "--delete-run-id", "ID", "Remove a run with all its files; asks first")
    ] = None,
    checkpoint_dir: Annotated[
        str | None, option(RUN, "--checkpoint-dir", "DIR", "Results directory. Default: ./benchmark_results")
    ] = None,
    accept_changed_code: Annotated[
        bool,
        option(RUN, "--accept-changed-code", None, "Go on with a run whose optimizer, metric or dataset code changed"),
    ] = False,
    no_cache: Annotated[bool, option(RUN, "--no-cache", None, "Share no answers between the tasks of a run")] = False,
    tracing: Annotated[
        bool, option(RUN, "--tracing", None, "Traces to Opik, or an error. Default: where Opik is configured")
    ] = False,
    no_tracing: Annotated[bool, option(RUN, "--no-tracing", None, "No traces")] = False,
    trace_items: Annotated[
        str | None,
        option(
            RUN,
            "--trace-items",
            "WHICH",
            "Examples that are traced: all, failures, or so many a candidate. Default: all, of large runs 20",
        ),
    ] = None,
    dry_run: Annotated[bool, option(RUN, "--dry-run", None, "Show the plan and its estimate; spend nothing")] = False,
    probe: Annotated[
        bool, option(RUN, "--probe", None, "With --dry-run: make the first call to each model. Default: before a run")
    ] = False,
    no_probe: Annotated[bool, option(RUN, "--no-probe", None, "Begin without a first call to each model")] = False,
    yes: Annotated[bool, option(RUN, "--yes", None, "Ask no question")] = False,
    list_: Annotated[
        bool, option(OUTPUT, "--list", None, "Show datasets, optimizers, models and metrics; then end")
    ] = False,
    config_schema: Annotated[
        bool, option(OUTPUT, "--config-schema", None, "Print the JSON schema of a manifest; then end")
    ] = False,
    json_: Annotated[bool, option(OUTPUT, "--json", None, "Machine-readable output on stdout")] = False,
    log_level: Annotated[
        str | None, option(OUTPUT, "--log-level", "LEVEL", "Of the logs: debug, info, warning, error. Default: info")
    ] = None,
) -> None:
    """Benchmark prompt optimizers: which one, on which dataset, with which model, is worth its money."""
    if list_ or config_schema:
        from local.catalogue import print_catalogue, print_schema

        print_catalogue(as_json=json_) if list_ else print_schema()
        raise typer.Exit
    given = {
        "demo_datasets": named("--demo-datasets", demo_datasets),
        "optimizers": named("--optimizers", optimizers),
        "models": named("--models", models),
        "seeds": one_of_seeds(seed, seeds),
        "model_params": tuple(model_params or ()),
        "data": data,
        "dataset_csv": dataset_csv,
        "split": split,
        "test_mode": test_mode or None,
        "optimizer_model": optimizer_model,
        "judge_model": judge_model,
        "prompt": prompt,
        "prompt_file": prompt_file,
        "output_prompt": output_prompt,
        "metric": metric,
        "budget": budget,
        "max_cost": max_cost,
        "max_tokens": max_tokens,
        "max_seconds": max_seconds,
        "run_max_cost": run_max_cost,
        "max_failed_share": max_failed_share,
        "max_concurrent": max_concurrent,
        "max_in_flight": max_in_flight,
        "task_timeout": task_timeout,
        "call_timeout": call_timeout,
        "run_id": run_id,
        "checkpoint_dir": checkpoint_dir,
        "cache": False if no_cache else None,
        "tracing": one_of_switches("--tracing", tracing, "--no-tracing", no_tracing),
        "trace_items": trace_items,
        "log_level": log_level,
    }
    from local.session import cancel, conduct, delete

    venue_at = modal_venue if modal else local_venue
    alone = {"--cancel-run-id": cancel_run_id, "--delete-run-id": delete_run_id}
    verbs = {"--resume-run-id": resume_run_id, "--retry-failed-run-id": retry_failed_run_id, **alone}
    named_verbs = [name for name, value in verbs.items() if value is not None]
    for name in alone:
        if name in named_verbs and len(named_verbs) > 1:
            others = " and ".join(other for other in named_verbs if other != name)
            raise UsageError(f"{name} stands alone; leave {others} out")
    if cancel_run_id is not None:
        raise typer.Exit(cancel(cancel_run_id, venue_at(checkpoint_dir or DEFAULT_DIR)))
    if delete_run_id is not None:
        raise typer.Exit(delete(delete_run_id, venue_at(checkpoint_dir or DEFAULT_DIR), yes=yes))
    raise typer.Exit(
        conduct(
            given,
            venue_at,
            manifest=config,
            resume=resume_run_id,
            retry=retry_failed_run_id,
            errors=named("--error-class", error_class),
            dry_run=dry_run,
            probe=one_of_switches("--probe", probe, "--no-probe", no_probe),
            yes=yes,
            as_json=json_,
            accept_changed_code=accept_changed_code,
        )
    )


def local_venue(checkpoint_dir: str) -> Venue:
    from local.venue import LocalVenue

    return LocalVenue(checkpoint_dir)


def modal_venue(_checkpoint_dir: str) -> Venue:
    try:
        from modal_utils.coordinator import ModalVenue
    except ModuleNotFoundError as error:
        raise no_modal(error) from None
    return ModalVenue()


def option_names(command: Any, is_wanted: Callable[[Any], bool]) -> list[str]:
    return [name for param in command.params if is_wanted(param) for name in param.opts]


def cli(argv: list[str]) -> int:
    """Run the command; the exit code. Every error is one line."""
    try:
        command = typer.main.get_command(app)
        refuse_missing_values(argv, option_names(command, lambda param: not param.is_flag))
        words = spread_lists(argv, option_names(command, lambda param: param.multiple))
        return int(command.main(words, standalone_mode=False) or 0)
    except BenchmarkError as error:
        message = str(error)
    except OSError as error:
        message = refused_by_system(error)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except typer.TyperException as error:
        message = f"{error.format_message().rstrip('.')}; `python run_benchmark.py --help` shows every option"
    print(f"error: {one_line(message)}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt)
    sys.exit(cli(sys.argv[1:]))
