"""Run a grid of prompt optimizers: dataset x optimizer x model x seed, on this machine.

    python run_benchmark.py --demo-datasets gsm8k --optimizers few_shot --models openai/gpt-4o-mini --test-mode

Parses, chooses, hands over and shows; what happens is in `local/`.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from utils.errors import BenchmarkError
from utils.validation import split_names, spread_lists

LIST_OPTIONS = ("--demo-datasets", "--optimizers", "--models", "--seeds", "--model-params")

USAGE, INTERRUPTED = 2, 130  # exit codes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

GRID, MODEL, LIMITS, RUN, OUTPUT = "What to run", "Models and prompts", "Limits", "The run", "Output"


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


@app.command(epilog="Exit codes: 0 all completed, 1 some failed, 2 usage, 3 run budget reached, 130 interrupted.")
def main(
    demo_datasets: Annotated[list[str] | None, option(GRID, "Dataset names. Default: all")] = None,
    optimizers: Annotated[
        list[str] | None, option(GRID, "Optimizers: NAME, or NAME:k=v,k=v for a variant. Default: all")
    ] = None,
    models: Annotated[
        list[str] | None, option(GRID, "Models: any that litellm knows, or sim/... Default: all with a key")
    ] = None,
    seed: Annotated[int | None, option(GRID, "Random seed. Default: 42")] = None,
    seeds: Annotated[list[int] | None, option(GRID, "Several seeds: repeats as a grid axis")] = None,
    data: Annotated[
        str | None, option(GRID, "Where rows come from: hub, sample (bundled), or a folder. Default: hub")
    ] = None,
    dataset_csv: Annotated[
        str | None, option(GRID, "Own data: a CSV with columns user_input, ground_truth_output")
    ] = None,
    test_mode: Annotated[bool, option(GRID, "5 examples a split and a budget of 60 calls: a quick try")] = False,
    config: Annotated[str | None, option(GRID, "A manifest, YAML or JSON; options given beside it win")] = None,
    optimizer_model: Annotated[
        str | None, option(MODEL, "The model that edits prompts. Default: the task model")
    ] = None,
    judge_model: Annotated[str | None, option(MODEL, "The model that grades. Default: the task model")] = None,
    model_params: Annotated[
        list[str] | None, option(MODEL, "Parameters of the models: name=value, sent as they are")
    ] = None,
    prompt: Annotated[str | None, option(MODEL, "A seed prompt in place of the datasets' own")] = None,
    prompt_file: Annotated[str | None, option(MODEL, "The same, from a file")] = None,
    metric: Annotated[str | None, option(MODEL, "The objective: a name of --list, or package.module:function")] = None,
    budget: Annotated[int | None, option(LIMITS, "Task calls a task. Default: 1000, in test mode 60")] = None,
    max_cost: Annotated[float | None, option(LIMITS, "USD a task")] = None,
    max_tokens: Annotated[int | None, option(LIMITS, "Tokens a task")] = None,
    max_seconds: Annotated[float | None, option(LIMITS, "Seconds of optimization a task")] = None,
    run_max_cost: Annotated[float | None, option(LIMITS, "USD for the whole run; exit code 3 when reached")] = None,
    max_concurrent: Annotated[int | None, option(LIMITS, "Workers at a time. Default: 5")] = None,
    max_in_flight: Annotated[
        int | None, option(LIMITS, "Open calls to a provider, over all workers. Default: 32")
    ] = None,
    task_timeout: Annotated[float | None, option(LIMITS, "Seconds until a task is given up. Default: 86400")] = None,
    run_id: Annotated[
        str | None, option(RUN, "Name the run; the same command again resumes it, longer lists extend it")
    ] = None,
    resume_run_id: Annotated[str | None, option(RUN, "Go on with what a run has not finished")] = None,
    retry_failed_run_id: Annotated[str | None, option(RUN, "Run the failed tasks of a run again")] = None,
    checkpoint_dir: Annotated[str | None, option(RUN, "Results directory. Default: ./benchmark_results")] = None,
    no_cache: Annotated[bool, option(RUN, "Do not share answers between the tasks of a run")] = False,
    dry_run: Annotated[bool, option(RUN, "Show the plan and its estimate; spend nothing")] = False,
    yes: Annotated[bool, option(RUN, "Ask no question")] = False,
    list_: Annotated[bool, option(OUTPUT, "Show datasets, optimizers, models and metrics", "--list")] = False,
    config_schema: Annotated[bool, option(OUTPUT, "Print the JSON schema of a manifest")] = False,
    json_: Annotated[bool, option(OUTPUT, "Machine-readable output on stdout", "--json")] = False,
    log_level: Annotated[
        str | None, option(OUTPUT, "Detail of the tasks' logs: debug, info, warning. Default: info")
    ] = None,
) -> None:
    """Benchmark prompt optimizers: which one, on which dataset, with which model, is worth its money."""
    if list_ or config_schema:
        from local.catalogue import print_catalogue, print_schema

        print_catalogue(as_json=json_) if list_ else print_schema()
        raise typer.Exit
    given = {
        "demo_datasets": split_names(demo_datasets or ()),
        "optimizers": split_names(optimizers or ()),
        "models": split_names(models or ()),
        "seeds": tuple(seeds) if seeds else (() if seed is None else (seed,)),
        "model_params": tuple(model_params or ()),
        "data": data,
        "dataset_csv": dataset_csv,
        "test_mode": test_mode or None,
        "optimizer_model": optimizer_model,
        "judge_model": judge_model,
        "prompt": prompt,
        "prompt_file": prompt_file,
        "metric": metric,
        "budget": budget,
        "max_cost": max_cost,
        "max_tokens": max_tokens,
        "max_seconds": max_seconds,
        "run_max_cost": run_max_cost,
        "max_concurrent": max_concurrent,
        "max_in_flight": max_in_flight,
        "task_timeout": task_timeout,
        "run_id": run_id,
        "checkpoint_dir": checkpoint_dir,
        "cache": False if no_cache else None,
        "log_level": log_level,
    }
    from local.session import conduct

    raise typer.Exit(
        conduct(
            given,
            manifest=config,
            resume=resume_run_id,
            retry=retry_failed_run_id,
            dry_run=dry_run,
            yes=yes,
            as_json=json_,
        )
    )


def cli(argv: list[str]) -> int:
    """Run the command; the exit code. Every error is one line."""
    try:
        return int(app(spread_lists(argv, LIST_OPTIONS), standalone_mode=False) or 0)
    except BenchmarkError as error:
        message = str(error)
    except typer.Abort:
        return INTERRUPTED
    except typer.TyperException as error:
        message = f"{error} `python run_benchmark.py --help` shows every option"
    print(f"error: {message}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(cli(sys.argv[1:]))
