"""One call of a server over HTTP, and what its answer means: a result, later, wrong input, or stop all.

The classes of errors are those of architecture.md. What a server says is quoted, shortened, and never with
the key.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx
import orjson

from pipeline.ai.gate import Gate
from pipeline.ai.network import connect_by_asyncio
from pipeline.errors import AnswerError, FatalError, PipelineError, ServerError
from pipeline.settings import get_settings

_CONNECT_SECONDS = 10.0
_MOST_ANSWER_BYTES = 256 * 1024**2
_QUOTED_CHARS = 300

_OK, _BAD_REQUEST = 200, 400
_UNAUTHORIZED, _NO_CREDIT, _FORBIDDEN, _NOT_FOUND = 401, 402, 403, 404
_METHOD_NOT_ALLOWED, _NOT_IMPLEMENTED = 405, 501
# No such path, or none for this: it will not be there after a while either.
_NOT_OFFERED = frozenset({_NOT_FOUND, _METHOD_NOT_ALLOWED, _NOT_IMPLEMENTED})
_TELLS_NOTHING = _NOT_OFFERED | {_FORBIDDEN}
_PASSING = frozenset({408, 409, 425, 429})
_FIRST_SERVER_FAULT, _END_OF_STATUS = 500, 600
# What servers say of a model that they do not have, around its name: a message that quotes an input may
# speak of models too.
_UNKNOWN_MODEL = (
    r"{model}\W*\s(\w+ ){{0,2}}(not|\w+n't) (be |yet )?(found|exist|available|loaded|a valid)\b"
    r"|{model}\W*\s(is )?(an )?(unknown|invalid)\b"
    r"|\b(unknown|invalid|no such) model\b.{{0,20}}{model}"
    r"|^no models? (is )?loaded\b"
)
_UNKNOWN_MODEL_CODES = frozenset({"model_not_found", "model_not_available", "invalid_model"})

Json = Mapping[str, Any]

# A line a call would hide everything else in a worker's log.
logging.getLogger("httpx").setLevel(logging.WARNING)


class InvalidAnswerError(AnswerError):
    """A server answered, and what it answered is not to be believed."""

    code = "INVALID_ANSWER"


class SlowServerError(ServerError):
    """A server was reached and did not answer in time."""


class HttpServer:
    """An OpenAI-compatible server: one client with kept connections, behind one gate.

    Args:
        url: the base of its paths, as `http://localhost:1234/v1`.
        key: sent as a bearer token; None sends none.
        headers: sent with every call.
        setting: the name of the setting that holds the URL, for messages.
        key_setting: the name of the setting that holds the key.

    Raises:
        FatalError: the key is none that can be sent.
    """

    def __init__(
        self, url: str, *, key: str | None, headers: Mapping[str, str], setting: str, key_setting: str
    ) -> None:
        self.url = url.rstrip("/")
        self.gate = Gate(self.url)
        self._key, self._setting, self._key_setting = key, setting, key_setting
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise FatalError(
                f"{key_setting} holds a space, a line end or a letter that no key has: set it again with "
                f"`opspipe settings set {key_setting} -`"
            )
        self._call_seconds = float(get_settings().ai_call_seconds)
        self._longest_pause = float(get_settings().ai_patience)
        sent = dict(headers) | ({"Authorization": f"Bearer {key}"} if key else {})
        slots = get_settings().ai_concurrency
        self._client = httpx.AsyncClient(
            headers=sent,
            verify=_trusted(),
            timeout=httpx.Timeout(self._call_seconds, connect=_CONNECT_SECONDS, pool=None),
            # A connection a slot, kept as long as the process.
            limits=httpx.Limits(
                max_connections=slots + 2, max_keepalive_connections=slots, keepalive_expiry=60
            ),
        )
        connect_by_asyncio(self._client)

    async def post(
        self, path: str, body: Mapping[str, Any], *, model: str, account: Callable[[Json], Awaitable[None]]
    ) -> Json:
        """Make a call of a model and give its JSON answer.

        Args:
            path: below the base URL.
            body: sent as JSON.
            model: the model's name, for messages.
            account: takes note of what the answer says the call has used, before the next call may begin.

        Raises:
            ServerError: no answer, or one that says to try later.
            AnswerError: the server says that the input is wrong, or its answer is of no use.
            FatalError: a refused key, no credit, an unknown model, an address where no such server is.
        """
        # Before there is a slot: what is done with one the server waits for.
        request = self._request("POST", path, orjson.dumps(body))

        async def call() -> Json:
            status, headers, answer = await self._send(request)
            return self._read(status, headers, answer, model)

        return await self.gate.call(model, call, account)

    async def get(self, path: str) -> Json | None:
        """Ask for what is no model's work, without a slot; None where the server does not tell it.

        Such a list is a help and no more: a server that refuses it, or answers with what is none, may do its
        models' work all the same.

        Raises:
            ServerError, FatalError: as `post`.
        """
        try:
            status, headers, answer = await self._send(self._request("GET", path, None))
            found = None if status in _TELLS_NOTHING else self._read(status, headers, answer, "")
        except AnswerError:
            found = None
        except ServerError as error:
            # Also who only asks for the list waits no longer than the patience lasts.
            await self.gate.note_failure(path, error)
            raise
        await self.gate.note_answer(path)
        return found

    async def close(self) -> None:
        """Hang up, and give back the slots."""
        await self._client.aclose()
        self.gate.close()

    def _request(self, method: str, path: str, data: bytes | None) -> httpx.Request:
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            return self._client.build_request(method, self.url + path, content=data, headers=headers)
        except httpx.InvalidURL as error:
            raise FatalError(f"{self.url} cannot be called: {error}. Set {self._setting}") from error

    async def _send(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        try:
            async with (
                asyncio.timeout(self._call_seconds),
                aclosing(await self._client.send(request, stream=True)) as response,
            ):
                parts, size = [], 0
                async for part in response.aiter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > _MOST_ANSWER_BYTES:
                        raise InvalidAnswerError(
                            f"{self.url} answered with more than {_MOST_ANSWER_BYTES:,} bytes"
                        )
                return response.status_code, response.headers, b"".join(parts)
        except TimeoutError as error:
            raise SlowServerError(f"{self.url} did not answer within {self._call_seconds:.0f} s") from error
        except httpx.ConnectTimeout as error:
            raise ServerError(f"{self.url} is not to be reached in time") from error
        except httpx.TimeoutException as error:
            raise SlowServerError(f"{self.url} did not answer in time ({type(error).__name__})") from error
        except httpx.UnsupportedProtocol as error:
            raise FatalError(f"{self.url} cannot be called: {error}. Set {self._setting}") from error
        except httpx.DecodingError as error:
            raise InvalidAnswerError(f"{self.url} sent what cannot be decoded: {error}") from error
        except httpx.TransportError as error:
            raise ServerError(
                f"{self.url} is not to be reached or hung up: {self._quote(str(error))}"
            ) from error

    def _read(self, status: int, headers: httpx.Headers, answer: bytes, model: str) -> Json:
        if status != _OK:
            raise self._error(status, headers, answer, model)
        try:
            body = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise InvalidAnswerError(f"{self.url} answered with what is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise InvalidAnswerError(f"{self.url} answered with JSON that is no object")
        fault = _find_fault(body)
        if fault:
            code = fault.get("code") if isinstance(fault, dict) else None
            if not isinstance(code, int) or not _BAD_REQUEST <= code < _END_OF_STATUS:
                code = _FIRST_SERVER_FAULT
            raise self._error(code, headers, orjson.dumps({"error": fault}), model)
        return body

    def _error(self, status: int, headers: httpx.Headers, answer: bytes, model: str) -> PipelineError:
        said = self._quote(_message(answer))
        where = f"{self.url} answered {status}" + (f": {said}" if said else "")
        if status in _PASSING or (status >= _FIRST_SERVER_FAULT and status not in _NOT_OFFERED):
            # Who asks for more than our patience is asked again when that ends.
            pause = _retry_after(headers)
            pause = None if pause is None else min(pause, self._longest_pause)
            return ServerError(where, status=status, retry_after=pause)
        if status == _FORBIDDEN and _is_flagged(answer):
            return RefusedAnswerError(where)
        is_unknown = status == _BAD_REQUEST and _is_unknown_model(answer, model)
        what_to_do = self._what_to_do(_NOT_FOUND if is_unknown else status, model)
        if what_to_do:
            return FatalError(f"{where}. {what_to_do}")
        error = AnswerError(where)
        error.code = f"HTTP_{status}"
        return error

    def _what_to_do(self, status: int, model: str) -> str | None:
        """Say what somebody has to change; None where it is the input that is wrong."""
        if status in {_UNAUTHORIZED, _FORBIDDEN}:
            what = "the key is refused" if self._key else "a key is wanted"
            return f"It means that {what}: set {self._key_setting}, or another provider; then retry the job"
        if status == _NO_CREDIT:
            return "The account has no credit left: add some, then retry the job"
        if status in _NOT_OFFERED:
            return (
                f"It does not know the model {model!r} or none of its kind, or {self._setting} is not its "
                "base URL: see `opspipe settings list`, then retry the job"
            )
        if status < _BAD_REQUEST:
            return f"It sends us elsewhere: set {self._setting} to where the server is, then retry the job"
        return None

    def _quote(self, said: str) -> str:
        line = " ".join("".join(char if char.isprintable() else " " for char in said).split())
        if self._key:
            line = line.replace(self._key, "***")
        return line if len(line) <= _QUOTED_CHARS else line[:_QUOTED_CHARS] + "…"


@cache
def _trusted() -> ssl.SSLContext:
    # Reading all certificates takes longer than many a call.
    return httpx.create_ssl_context()


class RefusedAnswerError(AnswerError):
    """The model or its provider would not answer this input."""

    code = "REFUSED"


def _find_fault(body: Json) -> object:
    """Find the error of a model's provider, which OpenRouter reports within an answer that says 200."""
    if body.get("error"):
        return body["error"]
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first.get("error") if isinstance(first, dict) else None


def _is_unknown_model(answer: bytes, model: str) -> bool:
    """Tell whether an error is about the model's name, and not about the input, which it may quote."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        body = None
    fault = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(fault, dict) and (
        fault.get("param") == "model" or str(fault.get("code")) in _UNKNOWN_MODEL_CODES
    ):
        return True
    said = " ".join(_message(answer).split())
    return bool(model and re.search(_UNKNOWN_MODEL.format(model=re.escape(model)), said, re.IGNORECASE))


def _message(answer: bytes) -> str:
    """Find what a server says in the body of an error: in one of the usual places, else all of it."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return answer[: 4 * _QUOTED_CHARS].decode(errors="replace")
    for name in ("error", "message", "detail"):
        if not isinstance(body, dict) or not body.get(name):
            continue
        body = body[name]
        if not isinstance(body, dict):
            return str(body)
        said = str(body.get("message") or body.get("detail") or body)
        more = body.get("metadata")
        # OpenRouter only says that a provider of the model has failed; this is what that one said.
        raw = more.get("raw") if isinstance(more, dict) else None
        return f"{said}: {raw}" if raw else said
    return str(body)


def _is_flagged(answer: bytes) -> bool:
    return any(word in answer for word in (b"flagged", b"moderation"))


def _retry_after(headers: httpx.Headers) -> float | None:
    """Read Retry-After, which is in seconds or a date (RFC 9110, section 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        # A number of the date that is none, or is too large for a date.
        return None
