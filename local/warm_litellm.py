"""Imported by the forkserver before it forks, so that no worker pays seconds for litellm."""

from utils.llm.litellm_engine import preload

preload()
