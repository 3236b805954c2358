"""Models that need no key and no network: a deterministic item-response simulation with a known optimum.

settings         the models by name, and every parameter that can be set
lexicon          what can be said and read: cues, skills, many phrasings of each
features         what is noticed in a prompt
demos            worked examples inside a prompt's text
landscape        what a prompt is worth on an item; the optimum, true scores, regret
task_model       a right or wrong answer as text, tokens, log-probabilities
reading          a request as the optimizer model reads it
editing          evidence becomes edits
optimizer_model  edits become a reply in the form asked for
judge            grades and similarities
faults           failures at set rates
model            all of it behind the protocol of a model
calibration      the figures of docs/simulated.md

Results made with these measure the mechanics of optimizers and of the harness. They say nothing about real models.
"""

from utils.llm.simulated.model import SimulatedModel, simulated_model
from utils.llm.simulated.settings import SIMULATED, Settings

__all__ = ["SIMULATED", "Settings", "SimulatedModel", "simulated_model"]
