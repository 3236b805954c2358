"""A double of an OpenAI-compatible provider over HTTP: answers, faults, latency, and a ledger of what was paid for.

    with OpenAIServer(answer="pick:A,B,C,D", faults={"rate_limit": 0.1}, retry_after_s=0.2) as server:   # on a thread
        ...  server.url, server.stats(), server.requests

    with spawned("--answer", "counter", "--latency", "0.05") as url:                                     # a process
        ...  stats(url), reset(url)

    python -m tests.servers.openai_server --port 0 --ready-file F --fault rate_limit=0.1 --fault drop=0.02

    server.gate.hold(), server.gate.let(3), server.gate.open()    # answers are held, and let through one by one

It speaks POST .../chat/completions, .../embeddings, .../models, Anthropic's /v1/messages and Ollama's /api/generate and
/api/chat; GET /stats, GET /answered and POST /reset are its own. Standard library only; HTTP/1.1 with keep-alive over
asyncio streams, because a fault such as half an answer needs the bare socket.

Faults are drawn from (seed, body, how often this body came), so they are the same whatever the order of requests;
lasting ones from (seed, body) alone: asking again does not help. Within `held()` no answer is written, so a test can
bring a client into the state that it needs.

What "answered" means: a whole 200 answer was written to a connection that the client had not closed. The client may die
before it reads those bytes; a provider bills that too. `abandoned` counts requests whose client was gone before the
answer was written: nothing was delivered, and they are not in `answered`. A half-written answer (truncated, drop) and a
200 that is no answer (malformed) are neither.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import random
import re
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

from tests.servers.process import serving
from tests.waiting import PATIENCE_S

Json = dict[str, Any]
Answer = str | Callable[[Json], Any]  # a spec, or body -> text, None (null content) or a whole message

ERRORS: Mapping[str, tuple[int, str, str, str]] = {  # fault -> status, type, code, message, as OpenAI words them
    "rate_limit": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again later."),
    "quota": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "auth": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
    "forbidden": (403, "invalid_request_error", "forbidden", "Your project has no access to this model."),
    "server_error": (500, "server_error", "internal_error", "The server had an error while processing your request."),
    "overloaded": (
        503,
        "overloaded_error",
        "overloaded",
        "The engine is currently overloaded, please try again later.",
    ),
    "bad_request": (400, "invalid_request_error", "invalid_value", "Invalid value for 'messages'."),
    "no_logprobs": (
        400,
        "invalid_request_error",
        "unsupported_parameter",
        "'logprobs' is not supported with this model.",
    ),
    "no_schema": (
        400,
        "invalid_request_error",
        "unsupported_parameter",
        "'response_format' of type 'json_schema' is not supported with this model.",
    ),
    "not_found": (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "context_length": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    ),
    "content_policy": (
        400,
        "invalid_request_error",
        "content_policy_violation",
        "Your request was rejected as a result of our safety system.",
    ),
}
UNSUPPORTED = {"no_logprobs": "logprobs", "no_schema": "response_format"}  # strike only a body that has it
BODIES = ("malformed", "truncated", "hang", "drop")  # faults of the transport: the bytes of an answer are wrong
# whole answers, of an unusual shape
SHAPES = ("filtered", "null", "empty", "length", "cut", "no_usage", "odd_usage", "no_choices")
FAULTS = (*ERRORS, *BODIES, *SHAPES)

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
REASONS |= {429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable"}


@dataclass
class Settings:
    """What the server does with a request. `faults` maps a name of FAULTS to a probability."""

    answer: Answer = "const:The answer is 4."  # const:TEXT, pick:A,B,C (by the body's hash), echo, counter
    faults: Mapping[str, float] = field(default_factory=dict)
    fault_tries: int = sys.maxsize  # faults strike only the first so many tries of a body
    lasting: Mapping[str, float] = field(default_factory=dict)  # faults that strike a body each time it comes
    latency_s: tuple[float, float] = (0.0, 0.0)  # uniform
    retry_after_s: float | None = 1.0  # None: no such header
    retry_after_form: str = "seconds"  # seconds, ms, date
    hang_s: float = 600.0
    key: str = ""  # required as bearer token, if given
    tokens_out: int = 0  # 0: about the words of the text
    reasoning_tokens: int = 0
    thinking: str = ""  # sent beside the answer, as reasoning_content
    bills_lost: bool = False  # counts the tokens of answers that never came whole, too
    odd_usage: Mapping[str, Any] = field(default_factory=dict)  # what an odd_usage says in place of the true figures
    seed: int = 0

    def __post_init__(self) -> None:
        if strange := sorted({*self.faults, *self.lasting} - set(FAULTS)):
            raise ValueError(f"unknown faults {strange}; known: {', '.join(FAULTS)}")


@dataclass
class Ledger:
    """What came in and what went out since the last reset."""

    statuses: Counter[str] = field(default_factory=Counter)  # "dropped" and "hung" where no status was sent
    paths: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)  # body hash -> times it came
    answered: Counter[str] = field(default_factory=Counter)  # body hash -> whole 200 answers written
    barred: dict[str, float] = field(default_factory=dict)  # body hash -> not to be sent again before
    requests: int = 0
    abandoned: int = 0
    early_retries: int = 0  # a body that came again before its Retry-After ran out
    pause: tuple[float, float] = (-math.inf, -math.inf)  # the second half of the latest Retry-After that was sent
    early_sends: int = 0  # requests that came in it: none of these can have been on its way when the first was refused
    arrivals: list[float] = field(default_factory=list)  # of requests, on the monotonic clock
    pauses: list[tuple[float, float]] = field(default_factory=list)  # each Retry-After: from its sending to its end
    in_flight: int = 0
    max_in_flight: int = 0
    connections: int = 0
    described: int = 0  # questions about a model, of Ollama's kind
    tokens_in: int = 0
    tokens_out: int = 0

    def stats(self) -> Json:
        """The ledger as JSON; body hashes only where an answer was given twice."""
        return {
            "requests": self.requests,
            "answered": self.answered.total(),
            "distinct_answered": len(self.answered),
            "answered_twice": {body: count for body, count in self.answered.items() if count > 1},
            "abandoned": self.abandoned,
            "early_retries": self.early_retries,
            "early_sends": self.early_sends,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "connections": self.connections,
            "described": self.described,
            "statuses": dict(self.statuses),
            "paths": dict(self.paths),
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
        }


class Gate:
    """Where answers wait until a test lets them through; it stands open at first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.places = math.inf  # answers that may still go out
        self.held = 0  # answers that wait now

    def hold(self) -> None:
        """From now on nothing is answered."""
        with self._lock:
            self.places = 0

    def let(self, count: float) -> None:
        """So many more are answered."""
        with self._lock:
            self.places += count

    def open(self) -> None:
        """Everything is answered."""
        self.let(math.inf)

    async def passed(self, reader: asyncio.StreamReader) -> None:
        """Returns when this answer is let through, or when nobody waits for it any more."""
        self.held += 1
        while not reader.at_eof() and not self._takes_place():
            await asyncio.sleep(0.005)
        self.held -= 1

    def _takes_place(self) -> bool:
        with self._lock:
            if self.places < 1:
                return False
            self.places -= 1
            return True


@dataclass(frozen=True)
class Asked:
    """One HTTP request, read whole."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes


class App:
    """Settings and ledger, and the answer to each request."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.ledger = Ledger()
        self.gate = Gate()
        self.clock = clock
        self.counter = 0  # of answers, over resets: no two answers of one process are alike
        self.seen: list[tuple[str, Json, Mapping[str, str]]] = []  # path, body, headers
        self.keep_seen = False

    def reset(self) -> None:
        """A fresh ledger; what is in flight stays in flight."""
        now = self.ledger.in_flight
        self.ledger = Ledger(in_flight=now, max_in_flight=now)
        self.seen.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first request until either side closes it."""
        self.ledger.connections += 1
        # Only the end of the server cancels; asyncio's streams would log that as an error of each open connection.
        gone = (
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            asyncio.CancelledError,
            ValueError,
        )
        try:
            with contextlib.suppress(*gone):
                while (asked := await read_request(reader)) and await self.handle(asked, reader, writer):
                    pass
        finally:
            writer.close()

    async def handle(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False when the connection is to be closed."""
        own: dict[str, Callable[[], Any]] = {"/stats": self.ledger.stats, "/answered": lambda: self.ledger.answered}
        if asked.path in own:
            return await write_json(writer, 200, own[asked.path]())
        if asked.path == "/reset":
            self.reset()
            return await write_json(writer, 200, {"ok": True})
        if asked.path.endswith("/models"):
            models = [{"id": "mock-model", "object": "model", "created": 0, "owned_by": "tests"}]
            return await write_json(writer, 200, {"object": "list", "data": models})
        if asked.path == "/api/show":  # Ollama's description of a model; costs nobody anything
            self.ledger.described += 1
            return await write_json(writer, 404, {"error": "model not found"})
        self.ledger.requests += 1
        self.ledger.paths[asked.path] += 1
        self.ledger.in_flight += 1
        self.ledger.max_in_flight = max(self.ledger.max_in_flight, self.ledger.in_flight)
        try:
            return await self.reply(asked, reader, writer)
        finally:
            self.ledger.in_flight -= 1

    async def reply(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body: Json = json.loads(asked.raw)
        if self.keep_seen:
            self.seen.append((asked.path, body, asked.headers))
        digest = hashlib.sha256(asked.raw).hexdigest()[:32]
        ledger = self.ledger
        attempt = ledger.tries[digest]
        ledger.tries[digest] += 1
        if self.clock() < ledger.barred.pop(digest, -math.inf):
            ledger.early_retries += 1
        ledger.arrivals.append(time.monotonic())
        ledger.early_sends += ledger.pause[0] <= self.clock() < ledger.pause[1]
        rng = random.Random(f"{self.settings.seed}|{digest}|{attempt}")
        fault = self.draw(rng, digest, attempt)
        if fault in UNSUPPORTED and UNSUPPORTED[fault] not in body:
            fault = ""
        if self.settings.key and key_of(asked) != self.settings.key:
            fault = "auth"
        latency = rng.uniform(*self.settings.latency_s)
        if fault in BODIES and self.settings.bills_lost:
            self.answer(asked.path, body, digest, "", rng)
        if fault == "hang":
            ledger.statuses["hung"] += 1
            latency = self.settings.hang_s
        if latency > 0 and fault not in ("rate_limit", "quota", "auth"):
            await until_closed(reader, latency)
        await self.gate.passed(reader)
        if reader.at_eof() or writer.is_closing():
            ledger.abandoned += 1
            return False
        if fault in ERRORS:
            return await self.refuse(fault, digest, asked, writer)
        if fault in BODIES:
            return await self.garble(fault, writer)
        answer = self.answer(asked.path, body, digest, fault, rng)
        await write_json(writer, 200, answer)
        ledger.answered[digest] += 1
        ledger.statuses["200"] += 1
        return True

    def draw(self, rng: random.Random, digest: str, attempt: int) -> str:
        """The fault that strikes this try, or an empty string."""
        lasting = random.Random(f"{self.settings.seed}|{digest}|lasting")
        for name, chance in self.settings.lasting.items():
            if lasting.random() < chance:
                return name
        for name, chance in self.settings.faults.items():
            if rng.random() < chance and attempt < self.settings.fault_tries:
                return name
        return ""

    async def refuse(self, fault: str, digest: str, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        status, kind, code, message = ERRORS[fault]
        self.ledger.statuses[str(status)] += 1
        headers: dict[str, str] = {}
        wait_s = self.settings.retry_after_s
        if fault in ("rate_limit", "overloaded") and wait_s is not None:
            headers = retry_after(wait_s, self.settings.retry_after_form)
            now = self.clock()
            self.ledger.barred[digest] = now + wait_s
            self.ledger.pauses.append((now, now + wait_s))
            self.ledger.pause = max(self.ledger.pause, (now + wait_s / 2, now + wait_s), key=lambda pause: pause[1])
        # Real providers repeat the refused key in their message; a client that shows it leaks it.
        message = message.replace("{key}", key_of(asked))
        error = {"message": message, "type": kind, "param": None, "code": code}
        return await write_json(writer, status, {"error": error}, headers)

    async def garble(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        """A 200 that is no answer: wrong text, half a JSON text, or half of the promised bytes. True: stays open."""
        self.ledger.statuses["200" if fault != "drop" else "dropped"] += 1
        if fault == "malformed":
            return await write(writer, 200, b"<html><body>502 Bad Gateway</body></html>", {"content-type": "text/html"})
        if fault == "truncated":
            return await write(writer, 200, b'{"id":"x","object":"chat.completion","choices":[{"index":0,"mess')
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
        await writer.drain()
        return False

    def answer(self, path: str, body: Json, digest: str, fault: str, rng: random.Random) -> Json:
        """The answer in the form that belongs to the path."""
        tokens_in = max(1, len(json.dumps(body.get("messages", body.get("input", "")))) // 4)
        if path.endswith("/embeddings"):
            self.ledger.tokens_in += tokens_in
            return embeddings(body, tokens_in)
        text, finish = self.text(body, digest), "stop"
        if fault in ("filtered", "null"):
            text, finish = None, "content_filter" if fault == "filtered" else "stop"
        if fault in ("empty", "length"):
            text, finish = "", "length" if fault == "length" else "stop"
        if fault == "cut":
            text, finish = (text or "")[: len(text or "") // 2], "length"
        tokens_out = self.settings.tokens_out or len((text or "").split()) + self.settings.reasoning_tokens
        self.ledger.tokens_in += tokens_in
        self.ledger.tokens_out += tokens_out
        if path.endswith("/messages"):
            return anthropic(body, text, finish, tokens_in, tokens_out)
        if path.startswith("/api/"):
            return ollama(path, body, text, tokens_in, tokens_out)
        choice: Json = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        if self.settings.thinking:
            choice["message"]["reasoning_content"] = self.settings.thinking
        if body.get("logprobs"):
            choice["logprobs"] = {"content": logprobs(text or "", int(body.get("top_logprobs") or 0), rng)}
        answer: Json = {
            "id": f"chatcmpl-{digest}",
            "object": "chat.completion",
            "created": int(time.time()),
            "service_tier": "default",
        }
        answer |= {"model": body.get("model", ""), "choices": [] if fault == "no_choices" else [choice]}
        if fault != "no_usage":
            answer["usage"] = {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
                "completion_tokens_details": {"reasoning_tokens": self.settings.reasoning_tokens},
            }
        if fault == "odd_usage":
            answer["usage"] |= self.settings.odd_usage
        return answer

    def text(self, body: Json, digest: str) -> str | None:
        """What the model says."""
        self.counter += 1
        answer = self.settings.answer
        if callable(answer):
            said: str | None = answer(body)
            return said
        form = body.get("response_format") or {}
        if form.get("type") == "json_schema":
            return json.dumps(fitting(form["json_schema"].get("schema", {})))
        kind, _, rest = answer.partition(":")
        if kind == "counter":
            return f"answer {self.counter}"
        if kind == "echo":
            return str(body["messages"][-1]["content"]) if body.get("messages") else str(body.get("prompt", ""))
        if kind == "pick":
            picks = rest.split(",")
            return picks[int(digest[:8], 16) % len(picks)]
        return rest


# --------------------------------------------------------------------------- HTTP


def key_of(asked: Asked) -> str:
    """The key that came, as OpenAI or as Anthropic want it."""
    return asked.headers.get("x-api-key") or asked.headers.get("authorization", "").removeprefix("Bearer ")


async def read_request(reader: asyncio.StreamReader) -> Asked | None:
    """The next request of a connection; None where the client closed it."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "chunked" in headers.get("transfer-encoding", ""):
        raw = await read_chunks(reader)
    else:
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, target.partition("?")[0], headers, raw)


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readline()).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


async def until_closed(reader: asyncio.StreamReader, seconds: float) -> None:
    """Waits so long, or until the client has closed the connection, looked at every tenth of a second."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not reader.at_eof():
        await asyncio.sleep(min(left, 0.1) if seconds > 1 else left)


async def write_json(
    writer: asyncio.StreamWriter, status: int, value: Any, headers: Mapping[str, str] | None = None
) -> bool:
    return await write(writer, status, json.dumps(value).encode(), headers)


async def write(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> bool:
    """Writes a whole answer; True, for the connection stays open."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"content-length: {len(body)}"]
    lines += [
        f"{name}: {value}" for name, value in ({"content-type": "application/json"} | dict(headers or {})).items()
    ]
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    await writer.drain()
    return True


def retry_after(wait_s: float, form: str) -> dict[str, str]:
    """The header in the form asked for. A date has whole seconds, so it is rounded up."""
    if form == "ms":
        return {"retry-after-ms": str(math.ceil(wait_s * 1000)), "retry-after": str(math.ceil(wait_s))}
    if form == "date":
        return {"retry-after": formatdate(math.ceil(time.time() + wait_s), usegmt=True)}
    return {"retry-after": f"{wait_s:g}"}


# --------------------------------------------------------------------------- the forms of an answer


def embeddings(body: Json, tokens_in: int) -> Json:
    """A vector for each text, the same for the same text; texts that share words are near each other."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    rows = [{"object": "embedding", "index": i, "embedding": vector(str(text))} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": tokens_in, "total_tokens": tokens_in}
    return {"object": "list", "data": rows, "model": body.get("model", ""), "usage": usage}


def vector(text: str, size: int = 16) -> list[float]:
    total = [0.0] * size
    for word in re.findall(r"\w+", text.lower()) or [""]:
        rng = random.Random(word)
        total = [value + rng.gauss(0, 1) for value in total]
    return total


def anthropic(body: Json, text: str | None, finish: str, tokens_in: int, tokens_out: int) -> Json:
    reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
    content = [] if text is None else [{"type": "text", "text": text}]
    usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
    base = {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model", "")}
    return {**base, "content": content, "stop_reason": reasons[finish], "stop_sequence": None, "usage": usage}


def ollama(path: str, body: Json, text: str | None, tokens_in: int, tokens_out: int) -> Json:
    said = {"response": text} if path.endswith("generate") else {"message": {"role": "assistant", "content": text}}
    base = {"model": body.get("model", ""), "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "stop"}
    return {**base, **said, "prompt_eval_count": tokens_in, "eval_count": tokens_out}


def logprobs(text: str, top: int, rng: random.Random) -> list[Json]:
    tokens = []
    for token in re.findall(r"\S+\s*", text) or [""]:
        logprob = -rng.random()
        rivals = [{"token": f"other{i}", "logprob": logprob - i, "bytes": None} for i in range(1, top)]
        first = [{"token": token, "logprob": logprob, "bytes": None}] if top else []
        tokens.append({"token": token, "logprob": logprob, "bytes": None, "top_logprobs": first + rivals})
    return tokens


def fitting(schema: Json, root: Json | None = None) -> Any:
    """A small value that fits a JSON schema: enough of it for structured replies."""
    root = root or schema
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target[part]
        return fitting(target, root)
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return fitting(schema[word][0], root)
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: fitting(part, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [fitting(schema.get("items", {}), root)] * max(1, int(schema.get("minItems", 1)))
    values: Json = {
        "number": schema.get("minimum", 1),
        "integer": schema.get("minimum", 1),
        "boolean": True,
        "null": None,
    }
    return values.get(kind, "text")


# --------------------------------------------------------------------------- on a thread


class OpenAIServer:
    """The server on a thread of this process, as a context manager. Keyword arguments are the fields of Settings.

    `url` ends in /v1, as OPENAI_BASE_URL wants it; `root` does not, as Ollama wants it. `requests` holds the bodies
    that came. Settings can be changed between requests through `settings`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, **settings: Any) -> None:
        self.app = App(Settings(**settings), clock)
        self.app.keep_seen = True
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="openai-server", daemon=True)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.app.serve, "127.0.0.1", 0, backlog=2048)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)

    @property
    def settings(self) -> Settings:
        return self.app.settings

    @property
    def gate(self) -> Gate:
        return self.app.gate

    @property
    def answered(self) -> int:
        """Answers given, each time that one was."""
        return self.app.ledger.answered.total()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def requests(self) -> list[Json]:
        """The bodies that came, in order."""
        return [body for _, body, _ in self.app.seen]

    @property
    def headers(self) -> list[Mapping[str, str]]:
        """The headers that came, in order; names in lower case."""
        return [headers for _, _, headers in self.app.seen]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No answer is written as long as this lasts; those whose client is gone by then are never written."""
        self.gate.hold()
        try:
            yield
        finally:
            self.gate.open()

    def stats(self) -> Json:
        return stats(self.root)

    def reset(self) -> None:
        reset(self.root)


# --------------------------------------------------------------------------- as a process


@contextlib.contextmanager
def spawned(*arguments: str) -> Iterator[str]:
    """The server as a process of its own, started with these options; gives its URL, which ends in /v1."""
    with serving("tests.servers.openai_server", "--port", "0", *arguments) as url:
        yield url


def stats(url: str) -> Json:
    """The ledger of the server at this URL (with or without /v1)."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats", timeout=PATIENCE_S) as answer:
        return dict(json.load(answer))


def reset(url: str) -> None:
    """Empties the ledger of the server at this URL (with or without /v1)."""
    request = urllib.request.Request(url.removesuffix("/v1") + "/reset", data=b"", method="POST")
    urllib.request.urlopen(request, timeout=PATIENCE_S).close()


def parse(argv: list[str]) -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-file", type=Path, help="the URL is written here once the server listens")
    parser.add_argument("--answer", default=Settings.answer, help="const:TEXT, pick:A,B, echo, counter")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=P", help=", ".join(FAULTS))
    parser.add_argument("--fault-tries", type=int, default=Settings.fault_tries)
    parser.add_argument("--latency", default="0", help="seconds: 0.2, or 0.1:0.4 for uniform")
    parser.add_argument("--retry-after", type=float, default=1.0)
    parser.add_argument("--retry-after-form", choices=("seconds", "ms", "date"), default="seconds")
    parser.add_argument("--hang", type=float, default=Settings.hang_s)
    parser.add_argument("--key", default="")
    parser.add_argument("--tokens-out", type=int, default=0)
    parser.add_argument("--reasoning-tokens", type=int, default=0)
    parser.add_argument("--odd-usage", type=json.loads, default={}, help="JSON: figures in place of the true ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    low, _, high = options.latency.partition(":")
    chances = {name: float(chance) for name, _, chance in (item.partition("=") for item in options.fault)}
    return options, Settings(
        answer=options.answer,
        faults=chances,
        fault_tries=options.fault_tries,
        latency_s=(float(low), float(high or low)),
        retry_after_s=options.retry_after,
        retry_after_form=options.retry_after_form,
        hang_s=options.hang,
        key=options.key,
        tokens_out=options.tokens_out,
        reasoning_tokens=options.reasoning_tokens,
        odd_usage=options.odd_usage,
        seed=options.seed,
    )


async def serve_forever(options: argparse.Namespace, settings: Settings) -> None:
    server = await asyncio.start_server(App(settings).serve, options.host, options.port, backlog=2048)
    url = f"http://{options.host}:{server.sockets[0].getsockname()[1]}/v1"
    print(url, flush=True)
    if options.ready_file:
        options.ready_file.write_text(url + "\n")
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve_forever(*parse(sys.argv[1:])))
