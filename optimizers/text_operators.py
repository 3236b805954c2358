"""Operators on the text of prompts that need no model: crossover, sentence and word mutations, diversity.

They work on the texts that carry instructions (`system` and `output`; `user` where there is nothing else), and never
touch a sentence or a word with a placeholder. Each returns the prompt unchanged where there is nothing to work on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from random import Random

from utils.prompt import PLACEHOLDER, Prompt

SENTENCE = re.compile(r".*?(?:[.!?]+(?=\s|\Z)|\n|\Z)\s*", re.DOTALL)  # with the white space after it
WORD = re.compile(r"[^\W\d_]{3,}")
SHUFFLE, MERGE = 0.3, 0.3  # chances; else a sentence is split


def sentences(text: str) -> list[str]:
    """The sentences with the white space after them: joined they are the text.

    >>> sentences("Think. Then answer:\\n{question}")
    ['Think. ', 'Then answer:\\n', '{question}']
    """
    return [sentence for sentence in SENTENCE.findall(text) if sentence]


def roles(prompt: Prompt) -> list[str]:
    """The texts of a prompt that operators may change."""
    return [role for role in ("system", "output") if getattr(prompt, role).strip()] or ["user"]


def with_text(prompt: Prompt, role: str, text: str) -> Prompt:
    """The prompt with another text for one role."""
    if role == "system":
        return replace(prompt, system=text)
    return replace(prompt, output=text) if role == "output" else replace(prompt, user=text)


def crossover(first: Prompt, second: Prompt, rng: Random) -> Prompt:
    """The head of the first with the tail of the second, text by text; the rest is the first's."""
    for role in roles(first):
        first = with_text(first, role, _crossed(getattr(first, role), getattr(second, role), rng))
    return first


def _crossed(first: str, second: str, rng: Random) -> str:
    """One point in sentences where both have two, else in words where both have two, else the first."""
    for split in (sentences, str.split):
        ours, theirs = split(first), split(second)
        shorter = min(len(ours), len(theirs))
        if shorter >= 2:
            point = rng.randint(1, shorter - 1)
            head, tail = ours[:point], theirs[point:]
            if split is str.split:
                return " ".join([*head, *tail])
            return "".join([*_spaced(head), *tail])
    return first


def structural(prompt: Prompt, rng: Random) -> Prompt:
    """The sentences of one text in another order, or two of them merged, or one split."""
    role = rng.choice(roles(prompt))
    parts = sentences(getattr(prompt, role))
    free = [i for i, part in enumerate(parts) if not PLACEHOLDER.search(part) and part.strip()]
    kind = rng.random()
    if kind < SHUFFLE:
        if len(free) > 1:
            cores = [parts[i].strip() for i in rng.sample(free, len(free))]
            for i, core in zip(free, cores, strict=True):  # the white space stays where it is
                parts[i] = parts[i].replace(parts[i].strip(), core, 1)
    elif kind < SHUFFLE + MERGE:
        pairs = [i for i in free if i + 1 in free]
        if pairs:
            i = rng.choice(pairs)
            after = parts[i + 1]
            parts[i : i + 2] = [f"{parts[i].rstrip().rstrip('.!?')}, and {after[:1].lower()}{after[1:]}"]
    else:
        long = [i for i in free if ", " in parts[i].rstrip()]
        if long:
            i = rng.choice(long)
            head, _, tail = parts[i].partition(", ")
            tail = tail.removeprefix("and ")
            parts[i] = f"{head}. {tail[:1].upper()}{tail[1:]}"
    return with_text(prompt, role, "".join(parts).strip())


def swap_words(prompt: Prompt, rng: Random) -> Prompt:
    """Two words of one sentence change places."""
    role = rng.choice(roles(prompt))
    parts = sentences(getattr(prompt, role))
    free = [i for i, part in enumerate(parts) if not PLACEHOLDER.search(part) and len(WORD.findall(part)) > 1]
    if free:
        i = rng.choice(free)
        a, b = sorted(rng.sample(list(WORD.finditer(parts[i])), 2), key=lambda match: match.start())
        text = parts[i]
        parts[i] = text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :]
    return with_text(prompt, role, "".join(parts))


def pick_word(prompt: Prompt, rng: Random) -> tuple[str, str, str] | None:
    """A word to replace: its role, the sentence it stands in, and the word. None where there is none."""
    role = rng.choice(roles(prompt))
    free = [part for part in sentences(getattr(prompt, role)) if not PLACEHOLDER.search(part) and WORD.search(part)]
    if not free:
        return None
    sentence = rng.choice(free)
    return role, sentence.strip(), rng.choice(WORD.findall(sentence))


def replace_word(prompt: Prompt, role: str, sentence: str, word: str, words: str) -> Prompt:
    """The prompt with other words for one word of a sentence."""
    changed = re.sub(rf"\b{re.escape(word)}\b", lambda match: words, sentence, count=1)
    return with_text(prompt, role, getattr(prompt, role).replace(sentence, changed, 1))


def diversity(prompts: Sequence[Prompt]) -> float:
    """Mean distance of two of the prompts, from 0 (all equal) to 1: the normalised indel distance of their texts."""
    from rapidfuzz.distance import Indel

    texts = [f"{prompt.system}\n{prompt.user}\n{prompt.output}" for prompt in prompts]
    apart = [Indel.normalized_distance(one, other) for one, other in combinations(texts, 2)]
    return sum(apart) / len(apart) if apart else 0.0


def _spaced(parts: Sequence[str]) -> list[str]:
    """The sentences, the last with a space after it if it has none: another follows now."""
    return [*parts[:-1], parts[-1] if parts[-1][-1:].isspace() else f"{parts[-1]} "]
