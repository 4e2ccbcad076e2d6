"""An OpenAI-compatible server on a real port that does what a test tells it to, also everything wrong.

In a test it runs in a thread and is told by its attributes; by itself (`python tests/ai_server.py`) it
answers as fast as it can and tells at `/stats` what it was asked. Vectors are made of a text's words, so that
equal texts have equal vectors and similar texts near ones.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import numpy as np
import orjson

# A finished answer: status, body, more headers.
Answer = tuple[int, bytes, Mapping[str, str]]
_REASONS = {200: "OK", 400: "Bad Request", 429: "Too Many Requests", 500: "Internal Server Error"}


# An event loop's timers ring at a whole millisecond, the next one: half of one late on average.
_ROUNDING_SECONDS = 0.0005
_HANGS_UP = b"HTTP/1.1 0 "


@dataclass
class Behaviour:
    """What the server does. Counts go down with each call that they touch; 0 means never."""

    dimensions: int = 16
    latency: float = 0.0
    # More calls at a time are answered 429, with this Retry-After where there is one.
    most_at_once: int = 0
    retry_after: str = ""
    # The next calls are answered so.
    fail_next: int = 0
    fail_status: int = 503
    # The next calls are answered with just these.
    answer_next: list[Answer] = field(default_factory=list)
    # The next calls are hung up on before an answer, or in the middle of one.
    reset_next: int = 0
    truncate_next: int = 0
    # A byte at a time, with this pause.
    drip: float = 0.0
    # Words in an input that make the whole request fail with the status; 0 hangs up.
    poison: dict[str, int] = field(default_factory=dict)
    # Words in an input for which the answer comes so many seconds later.
    slow: dict[str, float] = field(default_factory=dict)
    key: str = ""
    is_without_credit: bool = False
    models: tuple[str, ...] = ("embedder", "chatter")
    knows_any_model: bool = False
    context: dict[str, int] = field(default_factory=dict)
    prices: dict[str, tuple[float, float]] = field(default_factory=dict)
    takes_base64: bool = True
    # Forms of answers that are taken; others are refused with the status.
    answer_forms: tuple[str, ...] = ("json_schema", "json_object", "text")
    refusal_status: int = 400
    # Longer inputs, in characters, are answered so.
    longest_input: int = 0
    too_long_status: int = 400
    gives_usage: bool = True
    # A token in so many characters.
    chars_a_token: float = 4.0
    # USD a call, as OpenRouter says it.
    cost: float | None = None
    # What the list of models is answered with instead.
    list_answer: Answer | None = None
    key_limit: float | None = None
    key_usage: float = 0.0
    # Done once, before the next call is answered.
    meanwhile: Callable[[], object] | None = None
    # Done whenever the models are asked for.
    on_list: Callable[[], object] | None = None
    # Changes an embeddings answer, or gives the answer's text for the messages of a chat.
    spoil: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    chat: Callable[[str], str] | None = None
    finish_reason: str = "stop"
    refusal: str = ""


@dataclass
class Seen:
    """What the server was asked."""

    calls: int = 0
    chats: int = 0
    most_at_once: int = 0
    connections: int = 0
    refused: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    batch_sizes: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    # How many tokens an answer might take, by call.
    rooms: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    first_at: float = 0.0
    last_at: float = 0.0


class AiServer:
    """The server; `behaviour` may be changed while it runs."""

    def __init__(self, behaviour: Behaviour | None = None, *, keeps_texts: bool = True) -> None:
        self.behaviour = behaviour or Behaviour()
        self.seen = Seen()
        self.port = 0
        self._keeps_texts = keeps_texts
        self._at_once = 0
        self._wanted_port = 0
        self._prepare()

    def _prepare(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self, port: int = 0) -> Self:
        """Listen, on a free port unless one is given."""
        self._wanted_port = port
        self._thread.start()
        self._started.wait()
        return self

    def stop(self) -> None:
        """Hang up and stop listening; once more does nothing."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def restart(self) -> None:
        """Listen again where it listened before it was stopped."""
        self._prepare()
        self.start(self.port)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self._wanted_port, limit=2**26)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            # Closed transports go at the loop's next turn.
            self._loop.run_until_complete(asyncio.sleep(0.01))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, headers = _parse_head(head)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self._answer(writer, method, path, headers, body):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client hung up, or the server stops
        finally:
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> bool:
        if method == "GET":
            writer.write(_packed(self._list(path)))
            await writer.drain()
            return True
        now = self.behaviour
        self._note(headers, body)
        self._at_once += 1
        self.seen.most_at_once = max(self.seen.most_at_once, self._at_once)
        try:
            if now.most_at_once and self._at_once > now.most_at_once:
                self.seen.refused += 1
                more = {"Retry-After": now.retry_after} if now.retry_after else {}
                data = _packed((429, _error("too many requests"), more))
            else:
                began = self._loop.time()
                data = _packed(self._work(path, headers, body))
                late = (seconds for word, seconds in now.slow.items() if word.encode() in body)
                latency = max([now.latency, *late])
                await asyncio.sleep(max(latency - (self._loop.time() - began) - _ROUNDING_SECONDS, 0))
            return await self._send(writer, data)
        finally:
            self._at_once -= 1
            self.seen.last_at = time.time()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> bool:
        now = self.behaviour
        if now.reset_next or data.startswith(_HANGS_UP):
            now.reset_next = max(now.reset_next - 1, 0)
            writer.transport.abort()
            return False
        if now.truncate_next:
            now.truncate_next -= 1
            writer.write(data[: len(data) // 2])
            await writer.drain()
            return False
        if now.drip:
            for place in range(len(data)):
                writer.write(data[place : place + 1])
                await writer.drain()
                await asyncio.sleep(now.drip)
            return True
        writer.write(data)
        await writer.drain()
        return True

    def _note(self, headers: dict[str, str], body: bytes) -> None:
        self.seen.calls += 1
        self.seen.first_at = self.seen.first_at or time.time()
        if self._keeps_texts:
            self.seen.headers.append(headers)
            self.seen.asked.append(orjson.loads(body))

    def _work(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        meanwhile, self.behaviour.meanwhile = self.behaviour.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if self.behaviour.answer_next:
            return self.behaviour.answer_next.pop(0)
        asked = orjson.loads(body)
        refused = self._refuse(headers, asked["model"], body)
        if refused is not None:
            return refused
        return self._embed(asked) if path.endswith("/embeddings") else self._chat(asked)

    def _refuse(self, headers: Mapping[str, str], model: str, body: bytes) -> Answer | None:
        now = self.behaviour
        if now.fail_next:
            now.fail_next -= 1
            more = {"Retry-After": now.retry_after} if now.retry_after else {}
            return now.fail_status, _error("out of order"), more
        if now.key and headers.get("authorization") != f"Bearer {now.key}":
            return 401, _error("no such key"), {}
        if now.is_without_credit:
            return 402, _error("insufficient credits"), {}
        if not now.knows_any_model and model not in now.models:
            return 404, _error(f"model {model} not found"), {}
        for word, status in now.poison.items():
            if word.encode() in body:
                return status, _error(f"cannot take {word}"), {}
        return None

    def _embed(self, asked: Mapping[str, Any]) -> Answer:
        now, texts = self.behaviour, asked["input"]
        if self._keeps_texts:
            self.seen.texts.update(texts)
            self.seen.batch_sizes.append(len(texts))
        if now.longest_input and any(len(entry) > now.longest_input for entry in texts):
            return now.too_long_status, _error("input is too long"), {}
        form = asked.get("encoding_format", "float")
        if form == "base64" and not now.takes_base64:
            return now.refusal_status, _error("encoding_format must be float"), {}
        made = [_vector(entry, now.dimensions, form) for entry in texts]
        tokens = int(sum(len(entry) for entry in texts) / now.chars_a_token)
        if now.spoil is None:
            # Put together from what is made already: a fast server is part of the measure.
            items = b",".join(b'{"index":%d,"embedding":%b}' % item for item in enumerate(made))
            usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)
            usage = usage if now.gives_usage else b"{}"
            return 200, b'{"object":"list","data":[%b],"usage":%b}' % (items, usage), {}
        data = [{"index": place, "embedding": orjson.loads(item)} for place, item in enumerate(made)]
        spoiled = now.spoil({"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
        # Not orjson: it knows no NaN.
        return 200, json.dumps(spoiled).encode(), {}

    def _chat(self, asked: Mapping[str, Any]) -> Answer:
        now = self.behaviour
        self.seen.chats += 1
        said = "\n".join(message["content"] for message in asked["messages"])
        if self._keeps_texts:
            self.seen.prompts.append(said)
            self.seen.rooms.append(asked["max_tokens"])
        wanted = asked.get("response_format", {"type": "text"})
        if wanted["type"] not in now.answer_forms:
            return now.refusal_status, _error(f"response_format {wanted['type']} is not supported"), {}
        content = now.chat(said) if now.chat else _fitting(wanted, said)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if now.refusal:
            message |= {"content": None, "refusal": now.refusal}
        tokens = int(len(said) / now.chars_a_token)
        usage: dict[str, Any] = {"prompt_tokens": tokens, "completion_tokens": 20}
        if now.cost is not None:
            usage["cost"] = now.cost
        body = {"choices": [{"index": 0, "message": message, "finish_reason": now.finish_reason}]}
        return 200, orjson.dumps(body | ({"usage": usage} if now.gives_usage else {})), {}

    def _list(self, path: str) -> Answer:
        now = self.behaviour
        if path.endswith("/key"):
            limit, usage = now.key_limit, now.key_usage
            left = None if limit is None else limit - usage
            data: object = {"limit": limit, "usage": usage, "limit_remaining": left}
        elif path.endswith("/v1/models") and now.list_answer:
            return now.list_answer
        elif path.endswith("/v1/models"):
            if now.on_list is not None:
                now.on_list()
            data = [self._listed(name) for name in now.models]
        elif path.endswith(("/stats", "/reset")):
            seen = self.seen
            if path.endswith("/reset"):
                self.seen = Seen()
            told = {
                "calls": seen.calls,
                "refused": seen.refused,
                "first": seen.first_at,
                "last": seen.last_at,
            }
            return 200, orjson.dumps(told), {}
        else:
            return 404, _error("no such path"), {}
        return 200, orjson.dumps({"data": data}), {}

    def _listed(self, name: str) -> dict[str, Any]:
        listed: dict[str, Any] = {"id": name}
        if name in self.behaviour.context:
            listed["context_length"] = self.behaviour.context[name]
        if name in self.behaviour.prices:
            into, out = self.behaviour.prices[name]
            listed["pricing"] = {"prompt": str(into), "completion": str(out)}
        return listed


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    return method, path, {name.lower(): value.strip() for name, value in pairs}


def _packed(answer: Answer) -> bytes:
    status, body, headers = answer
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _error(message: str) -> bytes:
    return orjson.dumps({"error": {"message": message}})


def vector_of(text: str, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Give the vector of a text: the sum of those of its words, of length 1."""
    total = np.zeros(dimensions)
    for word in text.split() or [text]:
        total += _word(word, dimensions)
    return np.asarray(total / np.linalg.norm(total), dtype=np.float32)


@lru_cache(maxsize=100_000)
def _word(word: str, dimensions: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8])
    return np.random.default_rng(seed).standard_normal(dimensions)


@lru_cache(maxsize=40_000)
def _vector(text: str, dimensions: int, form: str) -> bytes:
    vector = vector_of(text, dimensions)
    if form == "base64":
        return b'"' + base64.b64encode(vector.tobytes()) + b'"'
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)


def _fitting(wanted: Mapping[str, Any], said: str) -> str:
    """Make an answer of the schema that is asked for, the same for the same question."""
    described = wanted.get("json_schema", {}).get("schema") or wanted.get("schema")
    if described is None:
        described = json.loads(said[said.index('{"type":"object"') :].split("\n", 1)[0])
    number = int.from_bytes(hashlib.sha256(said.encode()).digest()[:4])
    values = {name: _value(kind, number) for name, kind in described["properties"].items()}
    return orjson.dumps(values).decode()


def _value(kind: Mapping[str, Any], number: int) -> object:
    if kind["type"] == "integer":
        low, high = kind.get("minimum", 0), kind.get("maximum", 100)
        return low + number % (high - low + 1)
    return {"string": "As asked.", "boolean": True, "array": ["One thing."]}[kind["type"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--slots", type=int, default=0)
    asked = parser.parse_args(arguments)
    server = AiServer(
        Behaviour(dimensions=asked.dimensions, latency=asked.latency, most_at_once=asked.slots),
        keeps_texts=False,
    ).start(asked.port)
    print(server.port, flush=True)  # noqa: T201 - whoever started it reads this
    threading.Event().wait()


if __name__ == "__main__":
    main()
