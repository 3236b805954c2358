"""Shared answers: a deterministic question is paid once in a run, whoever asks, and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models import Scripted, constant, fickle, listed
from tests.waiting import PATIENCE_S
from utils.archive import Folder
from utils.door import Door
from utils.errors import CallError, ErrorKind, UsageError
from utils.journal import Journal
from utils.ledger import Ledger
from utils.llm.cache import AnswerStore, Cached, prepare
from utils.records import Completion, Message, Request, Role, Usage

ROOT = Path(__file__).parents[3]
SURE = {"temperature": 0}


def question(text: str = "q", **params: Any) -> Request:
    return Request((Message("user", text),), params or SURE)


def answer(model: Cached, request: Request) -> Completion:
    return asyncio.run(model.complete(request))


@pytest.fixture(autouse=True)
def _all_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python 3.13 warns of a database that is forgotten open; in the product, closing the model closes it."""
    opened: list[AnswerStore] = []

    def remember(store: AnswerStore, *args: Any, **options: Any) -> None:
        original(store, *args, **options)
        opened.append(store)

    original = AnswerStore.__init__
    monkeypatch.setattr(AnswerStore, "__init__", remember)
    yield
    for store in opened:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.sqlite"


# --------------------------------------------------------------------------- sharing


def test_a_second_task_gets_the_answer_and_does_not_pay(path: Path) -> None:
    model = fickle()
    first = answer(Cached(model, AnswerStore(path), "t1"), question())
    second = answer(Cached(model, AnswerStore(path), "t2"), question())
    assert len(model.requests) == 1
    assert (first.text, first.cached) == ("answer 0", False)
    assert (second.text, second.cached, second.cost_usd, second.usage) == ("answer 0", True, 0.001, first.usage)


def test_a_task_that_asks_again_does_not_pay_again(path: Path) -> None:
    model = Cached(fickle(), AnswerStore(path), "t1")
    assert [answer(model, question()).cached for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize("params", [{"temperature": 0.7}, {"temperature": None}, {"top_p": 1}])
def test_an_answer_that_may_differ_is_never_shared(path: Path, params: dict[str, Any]) -> None:
    model = fickle()
    shared = Cached(model, AnswerStore(path), "t1")
    said = [answer(shared, question(**params)) for _ in range(2)]
    assert [completion.text for completion in said] == ["answer 0", "answer 1"]
    assert not any(completion.cached for completion in said)


@pytest.mark.parametrize(
    "other",
    [
        question("other"),
        question(temperature=0, top_p=1),
        Request((Message("user", "q"),), SURE, {"type": "object"}),
        Request((Message("user", "q"),), SURE, sample=1),
        Request((Message("system", "q"),), SURE),
    ],
)
def test_another_question_is_asked(path: Path, other: Request) -> None:
    model = fickle()
    shared = Cached(model, AnswerStore(path), "t1")
    assert answer(shared, question()).text != answer(shared, other).text


def test_another_model_is_asked(path: Path) -> None:
    store = AnswerStore(path)
    first, second = (Cached(Scripted(lambda r, c, n=name: n, name), store, "t") for name in ("m1", "m2"))
    assert [answer(model, question()).text for model in (first, second)] == ["m1", "m2"]


def test_a_failure_is_not_shared_and_lets_go_of_the_claim(path: Path) -> None:
    model = listed(CallError(ErrorKind.TRANSIENT, "lost"), "mended")
    shared = Cached(model, AnswerStore(path), "t1")
    with pytest.raises(CallError, match="lost"):
        answer(shared, question())
    assert answer(shared, question()).text == "mended"


def test_questions_asked_at_once_are_paid_once(path: Path) -> None:
    model = fickle()
    shared = Cached(model, AnswerStore(path), "t1", poll_s=0.0)

    async def at_once() -> list[Completion]:
        return await asyncio.gather(*(shared.complete(question()) for _ in range(5)))

    said = asyncio.run(at_once())
    assert len(model.requests) == 1
    assert sorted(completion.cached for completion in said) == [False, True, True, True, True]


@pytest.mark.parametrize("text", ["é\u2028\x00", "cut \ud83d", ""])
def test_any_text_comes_out_as_it_went_in(path: Path, text: str) -> None:
    for payer in ("t1", "t2"):
        assert answer(Cached(constant(text), AnswerStore(path), payer), question()).text == text


def test_it_looks_like_the_model_it_wraps(path: Path) -> None:
    model = constant("x")
    shared = Cached(model, AnswerStore(path), "t1")
    assert (shared.name, shared.ceiling(question())) == (model.name, model.ceiling(question()))
    asyncio.run(shared.close())
    assert model.closed == 1


ASK_ALL = """
import asyncio, sys
from pathlib import Path
from tests.models import Scripted
from utils.llm.cache import AnswerStore, Cached
from utils.records import Message, Request

class Slow(Scripted):
    async def pause(self, count):
        await asyncio.sleep(0.02)

async def main():
    model = Slow(lambda request, count: "paid by " + sys.argv[2])
    shared = Cached(model, AnswerStore(Path(sys.argv[1])), sys.argv[2], poll_s=0.005)
    asks = [Request((Message("user", f"q{i}"),), {"temperature": 0}) for i in range(12)]
    said = await asyncio.gather(*map(shared.complete, asks))
    print(len(model.requests), sum(not c.cached for c in said), ",".join(c.text for c in said))

sys.stdin.read(1)  # all begin at once
asyncio.run(main())
"""


def test_processes_that_ask_the_same_at_once_pay_once(path: Path) -> None:
    AnswerStore(path).close()
    command = [sys.executable, "-c", ASK_ALL, str(path)]
    processes = [
        subprocess.Popen([*command, name], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("t1", "t2")
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=PATIENCE_S)[0].split(" ", 2) for process in processes]
    assert sum(int(asked) for asked, _, _ in said) == 12
    assert sum(int(billed) for _, billed, _ in said) == 12
    assert said[0][2] == said[1][2]


# --------------------------------------------------------------------------- claims


def test_a_living_owner_is_waited_for(path: Path) -> None:
    store = AnswerStore(path)
    key = question().key("scripted")
    assert store.claim(key)
    assert not AnswerStore(path).claim(key)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            store.put(key, Completion("theirs", Usage(1, 1), 0.5), "t1")

    model = constant("mine")
    said = answer(Cached(model, AnswerStore(path), "t2", sleep=sleep), question())
    assert (said.text, said.cached, len(waits), model.requests) == ("theirs", True, 3, [])


def test_a_dead_owners_claim_is_taken_over(path: Path) -> None:
    AnswerStore(path, "started/dead").claim(question().key("scripted"))
    store = AnswerStore(path, "started/new", {"started/new"}.__contains__)
    assert answer(Cached(constant("mine"), store, "t2"), question()).text == "mine"


def test_only_one_of_several_takes_a_dead_owners_claim_over(path: Path) -> None:
    AnswerStore(path, "dead").claim("k")
    first, second = (AnswerStore(path, name, {"a", "b"}.__contains__) for name in "ab")
    assert [first.claim("k"), second.claim("k"), first.claim("k")] == [True, False, False]


def test_a_claim_dies_with_the_lock_of_its_attempt_whoever_has_its_number_now(path: Path, tmp_path: Path) -> None:
    """In a restarted container process numbers repeat, so a living number says nothing of who made a claim."""
    folder = Folder(tmp_path)
    lock = folder.claim("started/x@1.001", str(os.getpid()))
    AnswerStore(path, "started/x@1.001").claim("k")
    later = AnswerStore(path, "started/x@2.002", folder.is_claimed)
    assert not later.claim("k")
    lock.release()
    assert later.claim("k")


def test_nobody_lets_go_of_anothers_claim(path: Path) -> None:
    first, second = AnswerStore(path, "a"), AnswerStore(path, "b")
    first.claim("k")
    second.release("k")
    assert not second.claim("k")


# --------------------------------------------------------------------------- a file that is damaged


@pytest.mark.parametrize("damage", ["emptied", "cut", "overwritten", "not a database"])
def test_a_damaged_file_is_made_anew(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    prepare(path)
    store = AnswerStore(path)
    for number in range(200):
        store.put(str(number), Completion("x" * 100, Usage(1, 1), 0.5), "t1")
    store.close()
    whole = path.read_bytes()
    content = {
        "emptied": b"",
        "cut": whole[: len(whole) // 2],
        "overwritten": whole[:1000] + b"\xff" * 20_000 + whole[21_000:],
        "not a database": b"{}" * 1000,
    }[damage]
    path.write_bytes(content)
    prepare(path)
    assert AnswerStore(path).claim("k")
    assert ("is made anew" in caplog.text) == (damage != "emptied")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_whole_is_kept(path: Path) -> None:
    for _ in range(2):
        prepare(path)
        answer(Cached(constant("x"), AnswerStore(path), "t1"), question())
    found = AnswerStore(path).find(question().key("scripted"))
    assert found
    assert found[0].text == "x"


def test_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        prepare(path)


def test_a_file_that_is_damaged_while_it_is_used_costs_a_question_and_no_task(path: Path) -> None:
    model = fickle()
    shared = Cached(model, AnswerStore(path), "t1")
    shared._store._db.executescript("drop table answers; drop table asked")
    assert [answer(shared, question()).text for _ in range(2)] == ["answer 0", "answer 1"]


def test_an_answer_that_could_not_be_stored_keeps_nobody_waiting(path: Path) -> None:
    shared = Cached(constant("x"), AnswerStore(path), "t1")
    shared._store._db.execute("create trigger full before insert on answers begin select raise(abort, 'full'); end")
    assert answer(shared, question()).text == "x"
    assert AnswerStore(path, "another").claim(question().key("scripted"))


def test_an_answer_that_came_between_look_and_claim_is_used(path: Path) -> None:
    store = AnswerStore(path)

    class Late(AnswerStore):
        def claim(self, key: str) -> bool:
            if store.find(key) is None:
                store.put(key, Completion("theirs", Usage(1, 1), 0.5), "t1")
            return super().claim(key)

    model = constant("mine")
    assert answer(Cached(model, Late(path), "t2"), question()).text == "theirs"
    assert model.requests == []
    assert store.claim(question().key("scripted"))


def test_the_first_answer_stands(path: Path) -> None:
    store = AnswerStore(path)
    for text, payer in (("first", "t1"), ("second", "t2")):
        store.put("k", Completion(text, Usage(1, 1), 0.5), payer)
    found = store.find("k")
    assert found
    assert (found[0].text, found[1]) == ("first", "t1")


# --------------------------------------------------------------------------- money after a kill


def run(path: Path, asks: list[Request], earlier: str = "", payer: str = "t1") -> tuple[list[str], float | None, int]:
    """One attempt of a task: its journal's lines, what it was billed, the calls that the model had."""
    lines: list[str] = []
    journal = Journal(lines.append)
    journal.read(earlier)
    model = constant("x")
    door = Door({Role.TASK: Cached(model, AnswerStore(path), payer, poll_s=0.0)}, journal, Ledger())
    for request in asks:
        door.ask(Role.TASK, [request])
    usd = door.total.billed.usd
    door.close()
    return lines, usd, len(model.requests)


def test_an_own_answer_that_was_lost_before_it_was_journalled_is_booked_as_paid(path: Path) -> None:
    asks = [question("a"), question("b")]
    lines, usd, calls = run(path, asks)
    again = run(path, asks, earlier=lines[0])  # killed after b was stored, before it was journalled
    assert (usd, calls) == (0.002, 2)
    assert again[1:] == (0.002, 0)


def test_a_resumed_task_is_billed_like_an_uninterrupted_one(path: Path) -> None:
    asks = [question("a"), question("a"), question("b"), question("a"), question("b")]
    lines, usd, calls = run(path, asks)
    assert (usd, calls) == (0.002, 2)
    for kept in range(len(lines) + 1):
        assert run(path, asks, earlier="".join(lines[:kept]))[1:] == (0.002, 0), kept


def test_an_answer_that_another_task_paid_is_not_billed_after_a_resume(path: Path) -> None:
    asks = [question("a"), question("a")]
    run(path, asks, payer="t0")
    lines, usd, calls = run(path, asks)
    assert (usd, calls) == (0.0, 0)
    assert run(path, asks, earlier=lines[0])[1:] == (0.0, 0)
