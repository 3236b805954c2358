"""The tables: what can be named on the command line, and every default.

A row is a fact or an instance. Adding a dataset, an optimizer or a model is a row here, and a file where it lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimizers.automated_generator import AutomatedGenerator
from optimizers.balanced import Balanced
from optimizers.base import Optimizer
from optimizers.evolutionary_optimizer import EvolutionaryOptimizer
from optimizers.few_shot import FewShot
from optimizers.hierarchical_reflective import HierarchicalReflective
from optimizers.hill_climb import HillClimb
from optimizers.meta_prompt import MetaPrompt
from optimizers.no_op import NoOp
from optimizers.random_paraphrase import RandomParaphrase
from optimizers.thompson import Thompson
from optimizers.three_llm import ThreeLLM
from utils.dataset_specs import (
    ai2_arc,
    cnn_dailymail,
    election_questions,
    gsm8k,
    hotpot_300,
    medhallu,
    rag_hallucinations,
    ragbench_sentence_relevance,
    truthful_qa,
)
from utils.dataset_specs.base import DatasetSpec

DATASETS: Mapping[str, DatasetSpec] = {
    "gsm8k": gsm8k.SPEC,
    "hotpot_300": hotpot_300.SPEC,
    "ai2_arc": ai2_arc.SPEC,
    "ragbench_sentence_relevance": ragbench_sentence_relevance.SPEC,
    "election_questions": election_questions.SPEC,
    "medhallu": medhallu.SPEC,
    "rag_hallucinations": rag_hallucinations.SPEC,
    "truthful_qa": truthful_qa.SPEC,
    "cnn_dailymail": cnn_dailymail.SPEC,
}

OPTIMIZERS: Mapping[str, Optimizer] = {
    "no_op": NoOp(),
    "random_paraphrase": RandomParaphrase(),
    "hill_climb": HillClimb(),
    "few_shot": FewShot(),
    "meta_prompt": MetaPrompt(),
    "evolutionary_optimizer": EvolutionaryOptimizer(),
    "hierarchical_reflective": HierarchicalReflective(),
    "balanced": Balanced(),
    "automated_generator": AutomatedGenerator(),
    "three_llm": ThreeLLM(),
    "thompson": Thompson(),
}

# Tried when no model is named, where their key is present. Any other name that litellm knows can be given.
MODELS: Mapping[str, str] = {  # model -> the variable that holds its key
    "openai/gpt-6-luna": "OPENAI_API_KEY",
    "openai/gpt-5.4-mini": "OPENAI_API_KEY",
    "anthropic/claude-haiku-5-5": "ANTHROPIC_API_KEY",
    "anthropic/claude-sonnet-5-5": "ANTHROPIC_API_KEY",
    "gemini/gemini-3.8-flash": "GEMINI_API_KEY",
    "mistral/mistral-small-latest": "MISTRAL_API_KEY",
    "deepseek/deepseek-v4-flash": "DEEPSEEK_API_KEY",
    "xai/grok-4.7": "XAI_API_KEY",
}


@dataclass(frozen=True)
class Settings:
    """What a command asks for: the options of `run_benchmark.py`, or the keys of a manifest. Empty lists mean all."""

    demo_datasets: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()  # NAME or NAME:k=v,k=v
    models: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (42,)
    data: str = "hub"  # hub, sample, or a folder
    dataset_csv: str = ""
    split: str = ""  # of it: shares of train, validation and test, as 0.5/0.2/0.3; empty: a quarter, a quarter, a half
    optimizer_model: str = ""  # empty: the task model
    judge_model: str = ""  # empty: the task model
    model_params: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    prompt_file: str = ""
    output_prompt: str = ""
    metric: str = ""
    test_mode: bool = False
    budget: int | None = None  # task calls a task; None: DEFAULTS
    max_cost: float | None = None  # USD a task
    max_tokens: int | None = None  # a task
    max_seconds: float | None = None  # a task
    max_failed_share: float = 0.1  # of a task's calls, above which it fails
    run_max_cost: float | None = None  # USD, the whole run
    run_id: str = ""
    checkpoint_dir: str = "./benchmark_results"
    max_concurrent: int = 5  # workers
    max_in_flight: int = 32  # open calls to a provider, over all workers
    task_timeout: float = 24 * 3600.0  # seconds; a worker that takes longer is ended
    call_timeout: float = 120.0  # seconds; a model call that takes longer is tried again
    cache: bool = True  # share answers at temperature 0 between the tasks of a run
    tracing: bool | None = None  # to Opik; None: where it is configured
    trace_items: str = ""  # all, failures, or a number of examples a candidate; empty: by the size of the run
    log_level: str = "info"

    @property
    def named_models(self) -> tuple[str, ...]:
        """Every model that is asked, the task models first."""
        return tuple(dict.fromkeys(filter(None, (*self.models, self.optimizer_model, self.judge_model))))


@dataclass(frozen=True)
class Defaults:
    """Everything that no option sets."""

    task_calls: int = 1000  # budget of a task
    test_mode_task_calls: int = 60
    finalists: int = 3  # prompts that the harness scores on all of validation before it picks
    restarts: int = 3  # of a task whose worker died without having got one new answer


DEFAULTS = Defaults()
