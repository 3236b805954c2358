"""What people type, made regular and refused early: values, list options, and the question before a large run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from utils.errors import UsageError

OPTION = re.compile(r"--[a-z][a-z-]*(=.*)?")


def refuse_missing_values(argv: Sequence[str], valued: Iterable[str]) -> None:
    """Raises UsageError where an option that needs a value is followed by an empty one, another option, or nothing."""
    known = set(valued)
    for word, following in pairwise([*argv, "--end"]):
        name, equals, value = word.partition("=")
        has_none = not value.strip() if equals else OPTION.fullmatch(following) or not following.strip()
        if name in known and has_none:
            raise UsageError(f"{name} has no value; write one after it, or leave the option out")


def whole_number(option: str, text: str) -> int:
    """The whole number that was typed after an option. Raises UsageError."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a whole number; write it as 42") from None


def any_number(option: str, text: str) -> float:
    """The finite number that was typed after an option. Raises UsageError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{option} {text!r} is not a number; write it as 2.5")
    return number


def named(option: str, values: Sequence[str] | None) -> tuple[str, ...]:
    """The names that were typed after an option, none if it was not given. Raises UsageError where it names nothing."""
    names = split_names(values or ())
    if values is not None and not names:
        raise UsageError(
            f"{option} {' '.join(values)!r} names nothing; name something, or leave the option out for all"
        )
    return names


def no_modal(error: ModuleNotFoundError) -> UsageError:
    """The error for a command that needs the package modal, where that is not installed."""
    if error.name != "modal":
        raise error
    return UsageError("--modal needs the package modal, which is not installed; `pip install modal` brings it")


def one_of_switches(on: str, is_on: bool, off: str, is_off: bool) -> bool | None:
    """What two switches for one thing say; None where neither was given. Raises UsageError where both were."""
    if is_on and is_off:
        raise UsageError(f"{on} and {off} are both given; give one")
    return True if is_on else False if is_off else None


def one_of_seeds(seed: int | None, seeds: Sequence[str] | None) -> tuple[int, ...]:
    """The seeds that were typed, none if there are none. Raises UsageError where both options were given."""
    if seed is not None and seeds is not None:
        raise UsageError("--seed and --seeds are both given; give one")
    if seeds is None:
        return () if seed is None else (seed,)
    return tuple(whole_number("--seeds", text) for text in named("--seeds", seeds))


def spread_lists(argv: Sequence[str], list_options: Iterable[str]) -> list[str]:
    """The arguments with `--option a b c` written as `--option a --option b --option c`.

    >>> spread_lists(["--seeds", "1", "2", "--yes"], ["--seeds"])
    ['--seeds', '1', '--seeds', '2', '--yes']
    """
    known = set(list_options)
    spread: list[str] = []
    current = ""
    pending = False  # the option was written and still waits for its first value
    for word in argv:
        if word.startswith("--"):
            if pending:
                spread.append(current)  # no value came: let the parser say so
            name, equals, _ = word.partition("=")
            current = name if name in known else ""
            pending = bool(current) and not equals
            if not pending:
                spread.append(word)
        elif current:
            spread += [current, word]
            pending = False
        else:
            spread.append(word)
    return [*spread, current] if pending else spread


def split_commas(text: str) -> list[str]:
    """The pieces between commas; commas within quotes or brackets part nothing.

    >>> split_commas("x='1, 2',y=[3, 4],z=don't")
    ["x='1, 2'", 'y=[3, 4]', "z=don't"]
    """
    pieces = [""]
    quote, depth, before = "", 0, ","
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and before in ",=:[{ ":  # within a word it is an apostrophe
            quote = letter
        else:
            depth = max(0, depth + (letter in "[{") - (letter in "]}"))
        if letter == "," and not quote and not depth:
            pieces.append("")
        else:
            pieces[-1] += letter
        before = letter
    # a bracket or a quote that nobody closes holds nothing together
    return text.split(",") if quote or depth else pieces


def split_names(values: Iterable[str]) -> tuple[str, ...]:
    """Names given one by one or with commas between them; the commas of `name:k=v,k=v` stay.

    >>> split_names(["a,b", "c:x=1,y=2,d"])
    ('a', 'b', 'c:x=1,y=2', 'd')
    """
    names: list[str] = []
    for value in values:
        fresh = True
        for piece in split_commas(value):
            continues = not fresh and "=" in piece and ":" not in piece.partition("=")[0] and ":" in names[-1]
            if continues:
                names[-1] += f",{piece}"
            elif piece.strip():
                names.append(piece.strip())
            fresh = not names or (fresh and not piece.strip())
    return tuple(names)


def confirm(question: str, *, is_terminal: bool, ask: Callable[[str], str]) -> bool:
    """The answer to a yes-or-no question; UsageError where nobody is there to answer it."""
    if not is_terminal:
        raise UsageError(f"{question} There is no terminal to ask on; give --yes to go on, or name what should run")
    return ask(f"{question} [y/N] ").strip().casefold() in ("y", "yes")
