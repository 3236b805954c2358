"""How surprised a model is by the expected answer: cross entropy in nats, from the log-probabilities of its answer.

The place that counts is where the answer proper begins: the last token that is one of the choices, else the expected
answer's own last occurrence, else the first token after an announcement (`Answer:`), else the first of the last line.

- There, the listed tokens that are the expected answer (blanks and case aside) add up to p: -ln p.
- An expected answer of several tokens: given rightly, the mean of -ln p over its tokens; given wrongly, -ln p of its
  next token where the two part.
- What is not listed has p = 1e-4: 9.2103.
- Without log-probabilities one sample stands for them: -ln((k + 1/2) / (K + 1)) with K = 1 and k right ones, which is
  0.288 for a right answer and 1.386 for a wrong one. The source says so; numbers of different sources are not compared.

The tokens beside the chosen one come from the method of "Automated Prompt Generator"; the floor stands for what a
provider does not list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from utils.metrics.announcement import ANNOUNCEMENT
from utils.records import Completion, Example, Score, TokenLogprob

UNLISTED = 1e-4  # the probability of a token that is not in the list
LOGPROBS, SAMPLES = "logprobs", "samples"
_ANNOUNCED = re.compile(rf"{ANNOUNCEMENT}\s*", re.IGNORECASE)
_MARKERS = "▁Ġ"  # blanks, as some tokenizers write them


def cross_entropy(example: Example, completion: Completion, score: Score) -> tuple[float, str]:
    """Nats of the expected answer, never negative, and where the number comes from: `logprobs` or `samples`."""
    right = score.value >= 1.0
    gold = normal(example.target)
    if not completion.logprobs or not gold:
        return sampled(int(right), 1), SAMPLES
    tokens = completion.logprobs
    labels = {normal(choice) for choice in (*example.choices, example.target)}
    place = _place_of_label(tokens, {choice.strip() for choice in (*example.choices, example.target)}, labels)
    if place is not None and (p := _mass(tokens[place], gold)):
        return _nats(p), LOGPROBS
    span = _span(tokens, gold) if right else None
    if span:
        return max(0.0, -sum(token.logprob for token in span) / len(span)), LOGPROBS
    start = _place_of_answer(tokens, example.choices) if place is None else place
    return _nats(_next(tokens[start:], gold)), LOGPROBS


def sampled(right: int, samples: int) -> float:
    """Cross entropy where `right` of `samples` answers are right: half a success and half a failure are added."""
    return -math.log((right + 0.5) / (samples + 1))


def normal(text: str) -> str:
    """A token or a label without blanks and case."""
    return " ".join(text.strip(_MARKERS).split()).casefold()


def _nats(p: float) -> float:
    return max(0.0, -math.log(p or UNLISTED))


def _listed(token: TokenLogprob) -> Mapping[str, float]:
    return {**token.top, token.token: token.logprob}  # providers may leave the chosen token out


def _mass(token: TokenLogprob, gold: str) -> float:
    """The probability of all listed tokens that are the expected answer."""
    return sum(math.exp(logprob) for text, logprob in _listed(token).items() if normal(text) == gold)


def _place_of_label(tokens: Sequence[TokenLogprob], exact: set[str], folded: set[str]) -> int | None:
    """The last token that is a label as it is spelled; else in any case, unless it may be the article `a`."""
    spelled = [i for i, token in enumerate(tokens) if token.token.strip(_MARKERS).strip() in exact]
    alike = [i for i, token in enumerate(tokens) if normal(token.token) in folded]
    alike = [i for i in alike if len(normal(tokens[i].token)) > 1 or len(tokens) <= 3]
    return max(spelled or alike, default=None)


def _span(tokens: Sequence[TokenLogprob], gold: str) -> Sequence[TokenLogprob]:
    """The tokens of the last occurrence of the expected answer, where it begins and ends with a token."""
    for start in range(len(tokens) - 1, -1, -1):
        said = ""
        for end in range(start, len(tokens)):
            said += tokens[end].token
            if normal(said) == gold and normal(tokens[start].token):
                return tokens[start : end + 1]
            if not gold.startswith(normal(said)):
                break
    return ()


def _place_of_answer(tokens: Sequence[TokenLogprob], choices: Sequence[str]) -> int:
    """Where an answer begins that no single token gives."""
    for choice in choices:
        if len(normal(choice)) > 1 and (span := _span(tokens, normal(choice))):
            return next(i for i, token in enumerate(tokens) if token is span[0])
    text = "".join(token.token for token in tokens)
    line = text.rstrip().rfind("\n") + 1
    announced = [match.end() for match in _ANNOUNCED.finditer(text)]
    start = announced[-1] if announced and announced[-1] < len(text.rstrip()) else line
    at = 0
    for i, token in enumerate(tokens):
        at += len(token.token)
        if at > start and normal(token.token):
            return i
    return 0


def _next(tokens: Sequence[TokenLogprob], gold: str) -> float:
    """The probability of the expected answer's next token, at the first token that is not part of it."""
    rest = gold
    for token in tokens:
        said = normal(token.token)
        if rest == gold and (p := _mass(token, gold)):
            return p
        if not said or not rest.startswith(said) or said == rest:
            return sum(
                math.exp(logprob)
                for text, logprob in _listed(token).items()
                if normal(text) and rest.startswith(normal(text)) and normal(text) != said
            )
        rest = rest[len(said) :].lstrip()
    return 0.0
