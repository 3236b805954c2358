"""What people type, made regular and refused early: list options, and the question before a large run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from utils.errors import UsageError


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


def split_names(values: Iterable[str]) -> tuple[str, ...]:
    """Names given one by one or with commas between them; the commas of `name:k=v,k=v` stay.

    >>> split_names(["a,b", "c:x=1,y=2,d"])
    ('a', 'b', 'c:x=1,y=2', 'd')
    """
    names: list[str] = []
    for value in values:
        fresh = True
        for piece in value.split(","):
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
