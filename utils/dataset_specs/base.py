"""What a dataset is, and how its rows are loaded and split.

A `DatasetSpec` is a page of facts. Rows come from the hub, from the bundled sample or from a folder, always in the
hub's columns, and go through the same split rule. This module is the one owner of the `datasets` import.

The split rule. Each of our splits draws from a pool, one split of the hub. The rows of a pool are ordered by the
sha256 of their normalised input, so neither the order of the rows nor their number in a file decides who goes where.
Rows of equal normalised input are one row, and a row that one split took is in no other: test takes first, then
validation, then train. A pool that is smaller than what is asked of it is shared out in the proportion asked.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, overload

from utils.errors import UsageError, unknown
from utils.metrics.base import JudgedMetric, Metric
from utils.prompt import DEMOS, PLACEHOLDER, RESERVED, TARGET, Prompt
from utils.records import Example, Split, Splits
from utils.serialization import content_hash

Row = Mapping[str, Any]

SAMPLE = Path(__file__).parent / "sample"
REACH_S = 8.0  # that the hub is waited for
TEST_MODE_SIZE = 5  # examples of each split in test mode: the first ones of the full split
ORDER = (Split.TEST, Split.VALIDATION, Split.TRAIN)  # who takes first
PINNED = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """Where rows come from: a dataset of the hub at a fixed revision, and the columns that are read.

    With `path`, a CSV file instead of the hub: its rows are read from there whatever `--data` says.
    """

    hub_id: str
    config: str | None
    revision: str
    columns: tuple[str, ...]
    path: str = ""

    @property
    def is_fixed(self) -> bool:
        """True where the same rows are read at any time: a commit of the hub, or a file whose rows a run keeps."""
        return bool(self.path) or PINNED.fullmatch(self.revision) is not None


@dataclass(frozen=True)
class Sizes:
    """Rows of each split at full size; fewer rows are shared out in the same proportion."""

    train: int
    validation: int
    test: int

    def of(self, split: Split) -> int:
        """Rows of one split."""
        return {Split.TRAIN: self.train, Split.VALIDATION: self.validation, Split.TEST: self.test}[split]


@dataclass(frozen=True)
class DatasetSpec:
    """A named dataset: source, split rule, seed prompt, metrics (the first is the objective).

    `to_example` raises ValueError for a row that cannot be used, with the reason. It leaves `id` empty where the row
    has no id of its own.
    """

    name: str
    summary: str  # a few words for --list
    version: int  # raised when rows, split or scoring change: scores of two versions are not comparable
    licence: str
    sources: tuple[Source, ...]
    pools: Mapping[str, str]  # our split -> the hub's split that its rows are drawn from
    sizes: Sizes
    prompt: Prompt
    metrics: tuple[Metric | JudgedMetric, ...]
    to_example: Callable[[Row], Example]
    identity: tuple[str, ...] = ()  # the inputs that make two rows the same row; none named: all of them
    join: str = ""  # the column on which the rows of several sources are put together


def load_splits(
    spec: DatasetSpec, data: str, *, test_mode: bool = False, revisions: Mapping[str, str] | None = None
) -> Splits:
    """The train, validation and test examples of a dataset; `data` is `hub`, `sample` or a folder.

    `revisions` are the commits of the hub's datasets that were read before, and are read again; one that is not named
    there is read at the commit that its revision is now.

    Raises UsageError where rows, columns or a whole split are missing.
    """
    asked = spec.sources
    if data == "hub":
        spec = replace(spec, sources=tuple(_at_commit(source, revisions or {}) for source in asked))
    tables: dict[str, _Table] = {}
    for pool in dict.fromkeys(spec.pools[split] for split in ORDER):
        tables[pool] = _join(spec, [_read(spec, source, pool, data) for source in spec.sources])
    pools = {pool: _Pool.of(spec, table) for pool, table in tables.items()}
    chosen = _choose(spec, pools)
    for split in ORDER:
        if not chosen[split]:
            table = tables[spec.pools[split]]
            raise UsageError(
                f"{spec.name}: the {split} split is empty: {table.where} has {len(table.rows)} rows,"
                f" too few to share out; {_way_out(spec)}"
            )
    ids = [example.id for examples in chosen.values() for _, example in examples]
    # one rule for a whole dataset, so that no two ways of naming can meet
    own = all(ids) and len(set(ids)) == len(ids)
    parts = {
        split: tuple(example if own else replace(example, id=key[:12]) for key, example in examples)
        for split, examples in chosen.items()
    }
    if test_mode:
        parts = {split: examples[:TEST_MODE_SIZE] for split, examples in parts.items()}
    train, validation, test = parts[Split.TRAIN], parts[Split.VALIDATION], parts[Split.TEST]
    notes = [note for name, pool in pools.items() for note in (*tables[name].notes, *pool.notes)]
    if spec.sources[0].path:  # somebody's own rows: how they were shared out is no known fact
        shared = f"{len(train)} train, {len(validation)} validation and {len(test)} test rows"
        notes.append(f"{spec.name}: {shared}; --split shares them out otherwise")
    commits = {source.hub_id: source.revision for source in spec.sources} if data == "hub" else {}
    notes += [_moving(spec.name, source, commits) for source in asked if data == "hub" and not source.is_fixed]
    data_hash = content_hash([train, validation, test])
    commits.pop("", None)  # of a CSV file
    return Splits(train, validation, test, data_hash, tuple(dict.fromkeys(notes)), commits)


def _moving(name: str, source: Source, commits: Mapping[str, str]) -> str:
    found = commits[source.hub_id]
    at = f", now {found[:12]}, and so for the whole run" if PINNED.fullmatch(found) else ""
    return f"{name}: {source.hub_id} is read at {source.revision!r}{at}, which is not a fixed revision"


def check_prompt(prompt: Prompt, known: Splits | Iterable[str], source: str) -> None:
    """Raises UsageError where a placeholder of the prompt has no column; `source` says whose prompt it is."""
    columns = known.columns if isinstance(known, Splits) else tuple(known)
    named = prompt.placeholders | (set(PLACEHOLDER.findall(prompt.demo_template)) - {TARGET, DEMOS})
    for name in sorted(named):
        if name not in columns:
            raise UsageError(
                f"{source}: {unknown('column in placeholder', f'{{{name}}}', [f'{{{c}}}' for c in columns])}"
            )


def normalise(text: str) -> str:
    """The text without what makes no difference: case, width of white space, composition of accents.

    >>> normalise(" Two\\n  WORDS ")
    'two words'
    """
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def row_hash(*texts: str) -> str:
    """The sha256, in hex, of normalised texts: what decides where a row goes and how its options are ordered."""
    return hashlib.sha256("\x1f".join(map(normalise, texts)).encode("utf-8", "surrogatepass")).hexdigest()


def example_key(spec: DatasetSpec, example: Example) -> str:
    """The hash of an example's normalised input: two examples of the same key are the same row."""
    return row_hash(*(example.inputs[name] for name in spec.identity or sorted(example.inputs)))


def text_of(row: Row, column: str) -> str:
    """The text of a column, white space around it gone; ValueError where there is none."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"column {column!r} holds no text")
    return value.strip()


# --------------------------------------------------------------------------- the split rule


@dataclass(frozen=True)
class _Table:
    """The rows of one pool, read when asked for; `where` names them in an error."""

    rows: Sequence[Row]
    where: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Pool:
    """The usable rows of a table: key -> number of the row. Only keys are held, a pool may have thousands of rows."""

    table: _Table
    numbers: Mapping[str, int]
    notes: tuple[str, ...]

    @staticmethod
    def of(spec: DatasetSpec, table: _Table) -> _Pool:
        numbers: dict[str, int] = {}
        unusable, first_reason = 0, ""
        for number, row in enumerate(table.rows):
            try:
                example = spec.to_example(row)
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:  # whatever a row may be
                unusable, first_reason = unusable + 1, first_reason or f"{error}"
                continue
            reserved = RESERVED & set(example.inputs)
            if reserved:
                raise UsageError(
                    f"{spec.name}: column {min(reserved)!r} of {table.where} has a reserved name; rename it"
                    f" ({', '.join(sorted(RESERVED))} are taken)"
                )
            key = example_key(spec, example)
            rival = numbers.get(key)
            # of two rows with one key the same is kept whatever their order
            if rival is None or content_hash(example) < content_hash(spec.to_example(table.rows[rival])):
                numbers[key] = number
        if unusable * 2 > len(table.rows):
            raise UsageError(
                f"{spec.name}: {unusable} of {len(table.rows)} rows of {table.where} cannot be used"
                f" (first: {first_reason}); {_way_out(spec)}"
            )
        notes = (f"{unusable} rows of {table.where} left out (first: {first_reason})",) if unusable else ()
        return _Pool(table, numbers, notes)


def _choose(spec: DatasetSpec, pools: Mapping[str, _Pool]) -> dict[Split, list[tuple[str, Example]]]:
    taken: set[str] = set()
    chosen: dict[Split, list[tuple[str, Example]]] = {}
    for split in ORDER:
        name = spec.pools[split]
        pool = pools[name]
        left = sorted(key for key in pool.numbers if key not in taken)
        asked = spec.sizes.of(split)
        # what this pool still has to give, to this split and to those after it
        total = sum(spec.sizes.of(other) for other in ORDER[ORDER.index(split) :] if spec.pools[other] == name)
        size = asked if len(left) >= total else max(1, len(left) * asked // total)
        keys = left[:size]
        taken.update(keys)
        chosen[split] = [(key, spec.to_example(pool.table.rows[pool.numbers[key]])) for key in keys]
    return chosen


def _join(spec: DatasetSpec, tables: Sequence[_Table]) -> _Table:
    first, *others = tables
    if not others:
        return first
    indexes = [{normalise(row[spec.join]): number for number, row in enumerate(table.rows)} for table in others]
    names = [normalise(row[spec.join]) for row in first.rows]
    numbers = [
        (i, *(index[name] for index in indexes)) for i, name in enumerate(names) if all(name in x for x in indexes)
    ]
    notes = tuple(note for table in tables for note in table.notes)
    if len(numbers) < len(names):
        notes = (*notes, f"{len(names) - len(numbers)} rows of {first.where} have no partner in the other configs")
    return _Table(_Joined([table.rows for table in tables], numbers), first.where, notes)


class _Lazy(Sequence[Row], ABC):
    """Rows that are made when asked for."""

    @abstractmethod
    def row(self, number: int) -> Row:
        """One row."""

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Row]: ...
    def __getitem__(self, number: int | slice) -> Row | Sequence[Row]:
        return [self.row(i) for i in range(len(self))[number]] if isinstance(number, slice) else self.row(number)


class _Joined(_Lazy):
    """Rows put together of one row of each source."""

    def __init__(self, sources: Sequence[Sequence[Row]], numbers: Sequence[tuple[int, ...]]) -> None:
        self._sources = sources
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def row(self, number: int) -> Row:
        merged: dict[str, Any] = {}
        for rows, place in zip(self._sources, self._numbers[number], strict=True):
            merged.update(rows[place])
        return merged


# --------------------------------------------------------------------------- where rows come from


def _read(spec: DatasetSpec, source: Source, split: str, data: str) -> _Table:
    if source.path:
        table, columns = _from_csv(source.path)
    elif data == "hub":
        table, columns = _from_hub(spec, source, split)
    else:
        table, columns = _from_folder(spec, source, split, data)
    if not table.rows:
        raise UsageError(f"{spec.name}: {table.where} has no rows; {_way_out(spec)}")
    missing = [name for name in source.columns if name not in columns]
    if missing:
        raise UsageError(
            f"{spec.name}: {table.where} has no column {', '.join(map(repr, missing))};"
            f" columns found: {', '.join(columns) or 'none'}; rename a column, or {_way_out(spec)}"
        )
    return table


def _way_out(spec: DatasetSpec) -> str:
    if spec.sources[0].path:
        return "put other rows into the file"
    return "use --data sample, or --data DIR with rows in the hub's columns"


def _from_folder(spec: DatasetSpec, source: Source, split: str, data: str) -> tuple[_Table, tuple[str, ...]]:
    root = SAMPLE if data == "sample" else Path(data).expanduser()
    if not root.is_dir():
        raise UsageError(
            f"--data {data}: no such folder; known: hub, sample, or a folder with {spec.name}/{split}.jsonl"
        )
    folder = root / spec.name
    places = [folder / f"{split}.jsonl"]
    if source.config:
        places.insert(0, folder / source.config / f"{split}.jsonl")
    if len(spec.sources) > 1:  # without the config's folder one file would stand for several
        del places[1:]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UsageError(
            f"{spec.name}: no file {places[-1]}; put the rows of the hub's split {split!r} there, or --data sample"
        )
    try:
        # rows hold U+2028 and its like, at which str.splitlines would cut them in two
        lines = [line for line in path.read_bytes().decode("utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{spec.name}: cannot read {path}: {error}; it must be UTF-8, one JSON object a line"
        ) from None
    rows = _JsonLines(lines, path)
    notes: tuple[str, ...] = ()
    if data == "sample":
        notes = (f"{spec.name}: the rows are the bundled sample, not the hub's",)
    elif (folder / "STANDIN").is_file():
        notes = (f"{spec.name}: {folder} says that its rows stand in for the hub's",)
    return _Table(rows, str(path), notes), tuple(rows[0]) if lines else ()


class _JsonLines(_Lazy):
    """The rows of a file, parsed one by one when asked for."""

    def __init__(self, lines: Sequence[str], path: Path) -> None:
        self._lines = lines
        self._path = path

    def __len__(self) -> int:
        return len(self._lines)

    def row(self, number: int) -> Row:
        try:
            row = json.loads(self._lines[number])
        except ValueError as error:
            raise UsageError(f"{self._path}: row {number + 1} is not JSON: {error}; one JSON object a line") from None
        if not isinstance(row, dict):
            raise UsageError(f"{self._path}: row {number + 1} is not a JSON object; one JSON object a line")
        return row


def _from_csv(path: str) -> tuple[_Table, tuple[str, ...]]:
    """The rows of a CSV file with a header; every cell is text."""
    csv.field_size_limit(2**31 - 1)  # the standard limit, 128 KB a cell, is less than a long document
    rows: list[Row] = []
    columns: tuple[str, ...] = ()
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            # a name becomes a placeholder: "Gold answer" -> {Gold_answer}; a column without a name is no column
            columns = tuple(re.sub(r"\W+", "_", name.strip(), flags=re.ASCII) for name in next(reader, ()))
            named = [name for name in columns if name]
            if len(set(named)) < len(named):
                twice = next(name for name in named if named.count(name) > 1)
                raise UsageError(f"{path}: two columns are named {twice!r}; rename one")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    raise UsageError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells, the header has {len(columns)};"
                        ' put text with a comma or a line break in "double quotes"'
                    )
                rows.append({name: cell for name, cell in zip(columns, cells, strict=True) if name})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}; it must be a CSV file in UTF-8 with a header") from None
    return _Table(rows, path), tuple(name for name in columns if name)


def _from_hub(spec: DatasetSpec, source: Source, split: str) -> tuple[_Table, tuple[str, ...]]:
    where = f"{source.hub_id} ({source.config or 'default'}, {split}, revision {source.revision[:12]})"
    try:
        rows = _download(source, split)
    except UsageError as error:
        raise UsageError(f"{spec.name}: {where}: {error}; {_way_out(spec)}") from None
    except Exception as error:  # the libraries below raise dozens of kinds, and none of them says what to do
        reason = " ".join(str(error).split())[:200] or "no reason given"
        raise UsageError(
            f"{spec.name}: cannot load {where} from the hub: {type(error).__name__}: {reason}; {_way_out(spec)}"
        ) from error
    columns = tuple(rows.column_names)
    if all(name in columns for name in source.columns):
        rows = rows.select_columns(list(source.columns))
    return _Table(rows, where), columns


def _at_commit(source: Source, revisions: Mapping[str, str]) -> Source:
    """The source at the commit that its revision is now, or was when it was first read."""
    if source.path:
        return source
    return replace(source, revision=_commit(source.hub_id, revisions.get(source.hub_id, source.revision)))


@cache
def _commit(hub_id: str, revision: str) -> str:
    """What the hub says that a revision is; the revision itself where the hub is not asked, or does not know.

    Raises UsageError where it does not answer: what loads rows would try again for minutes.
    """
    _go_untold()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(hub_id, revision=revision, timeout=REACH_S).sha or revision
    except (HfHubHTTPError, OfflineModeIsEnabled):  # what comes of it is said when the rows are loaded
        return revision
    except Exception as error:  # of the HTTP library that huggingface_hub happens to use
        raise UsageError(
            f"the hub does not answer ({type(error).__name__}): {hub_id} cannot be loaded; use --data sample, --data"
            " DIR with rows in the hub's columns, or HF_HUB_OFFLINE=1 for what was loaded before"
        ) from None


def _go_untold() -> None:
    """No telemetry, which the hub's library reads when it is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _download(source: Source, split: str) -> Any:
    """One split of a hub dataset, memory-mapped; the files of other splits, often far larger, are not fetched."""
    _go_untold()
    import datasets
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # five retries, each with its address
    builder = datasets.load_dataset_builder(source.hub_id, source.config, revision=source.revision)
    files = builder.config.data_files or {}
    if split not in files:
        raise UsageError(f"no split {split!r}; known: {', '.join(map(str, files)) or 'none'}")
    # `load_dataset(id, config, split=...)` would download every split and then hand out one
    return datasets.load_dataset(builder.name, data_files={split: [str(url) for url in files[split]]}, split=split)
