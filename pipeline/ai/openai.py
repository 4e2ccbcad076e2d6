"""Providers that speak OpenAI's API: any server at `ai_host`, and OpenRouter.

How a server wants to be asked is found out by trying: embeddings in base64 or as numbers, answers held to a
JSON schema or only asked for one (see `pipeline.ai.forms`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from pipeline.ai.answers import read_object, read_usage, read_vectors
from pipeline.ai.base import (
    AiConfig,
    Balance,
    Completion,
    Embedded,
    Limits,
    ModelInfo,
    OneServer,
    Prompt,
    Usage,
    find_model,
)
from pipeline.ai.forms import Forms
from pipeline.ai.http import HttpServer, InvalidAnswerError, Json
from pipeline.ai.spending import record_call
from pipeline.ai.tokens import OVERHEAD_TOKENS, learn
from pipeline.errors import FatalError

_EMBEDDINGS, _CHAT = "embeddings", "chat"
_EMBEDDING_FORMATS = ("base64", "float")
_ANSWER_FORMATS = ("json_schema", "json_object", "text")
_MODELS_SECONDS = 300.0


class OpenAiProvider(OneServer):
    """A server that speaks OpenAI's API."""

    name = "lmstudio"
    host_setting, key_setting = "ai_host", "ai_key"
    headers: ClassVar[Mapping[str, str]] = {}
    # More paths that list models.
    model_paths: ClassVar[Sequence[str]] = ("/models",)

    def __init__(self, config: AiConfig) -> None:
        self._config = config
        self._server = HttpServer(
            config.host,
            key=config.key,
            headers=self.headers,
            setting=self.host_setting,
            key_setting=self.key_setting,
        )
        self._forms: dict[tuple[str, str], Forms] = {}
        self._models: tuple[float, Sequence[ModelInfo]] = (float("-inf"), ())

    @property
    def embedding_model(self) -> str:
        """The model that embeds, as it is asked for."""
        return self._config.embedding_model

    @property
    def llm_model(self) -> str:
        """The model that analyzes, as it is asked for."""
        return self._config.llm_model

    @property
    def limits(self) -> Limits:
        """What one call may carry: as set, else as the server's list says, else small."""
        limits = self._config.limits
        embedding, llm = self._listed(self.embedding_model), self._listed(self.llm_model)
        return replace(
            limits,
            embedding_context=self._config.embedding_context
            or embedding.context_tokens
            or limits.embedding_context,
            llm_context=self._config.llm_context or llm.context_tokens or limits.llm_context,
        )

    def succeeded_since(self, moment: float) -> bool:
        """Tell whether a call of this server succeeded after a moment of `time.monotonic`."""
        return self._server.gate.succeeded_since(moment)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed n texts in one call; the vectors are verified.

        Raises:
            TransientError, PermanentError, FatalError: as `HttpServer.post` and `read_vectors`.
        """
        model = _require(self.embedding_model, "embedding_model")

        async def ask(form: str) -> Embedded:
            body = {"model": model, "input": list(texts), "encoding_format": form}
            answer, usage = await self._call("/embeddings", body, self._embedding, texts)
            return Embedded(read_vectors(answer, len(texts)), usage)

        return await self._forms_of(_EMBEDDINGS, model).ask(tuple(texts), ask)

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer a prompt in one call.

        Raises:
            TransientError, PermanentError, FatalError: as `HttpServer.post` and `read_object`.
        """
        model = _require(self.llm_model, "llm_model")

        async def ask(form: str) -> Completion:
            body = self._chat(model, prompt, form)
            sent = [message["content"] for message in body["messages"]]
            answer, usage = await self._call("/chat/completions", body, self._llm, sent)
            if usage.is_counted:
                learn(model, sent, usage.input_tokens, overhead=OVERHEAD_TOKENS)
            return Completion(read_object(answer), usage)

        return await self._forms_of(_CHAT, model).ask((prompt.system, prompt.user), ask)

    def _chat(self, model: str, prompt: Prompt, form: str) -> dict[str, Any]:
        schema = prompt.schema
        system = prompt.system
        body: dict[str, Any] = {
            "model": model,
            "temperature": prompt.temperature,
            "max_tokens": prompt.max_output_tokens,
        }
        if form == "json_schema":
            described = {"name": prompt.name, "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": described}
        else:
            system += f"\n\nAnswer with one JSON object of this schema and nothing else:\n{_json(schema)}"
        if form == "json_object":
            body["response_format"] = {"type": "json_object", "schema": schema}
        body["messages"] = [
            {"role": "system", "content": system},
            {"role": "user", "content": prompt.user},
        ]
        return body

    def _forms_of(self, kind: str, model: str) -> Forms:
        if (kind, model) not in self._forms:
            # Answers are dear: one question finds out for those beside it. Vectors are not worth the wait.
            is_chat = kind == _CHAT
            forms = _ANSWER_FORMATS if is_chat else _EMBEDDING_FORMATS
            self._forms[kind, model] = Forms(forms, is_tried_alone=is_chat)
        return self._forms[kind, model]

    async def _call(
        self, path: str, body: Mapping[str, Any], prices: ModelInfo, sent: Sequence[str]
    ) -> tuple[Json, Usage]:
        """Make a call, and count what it has used before the next may begin."""

        async def account(found: Json) -> None:
            await record_call(prices.name, self._usage(found, prices, sent))

        answer = await self._server.post(path, body, model=prices.name, account=account)
        return answer, self._usage(answer, prices, sent)

    def _usage(self, answer: Json, prices: ModelInfo, sent: Sequence[str]) -> Usage:
        usage = read_usage(answer, prices.name, sent)
        if usage.cost_usd is not None or prices.input_price is None:
            return usage
        if prices.output_price is None and usage.output_tokens:
            return usage
        cost = usage.input_tokens * prices.input_price + usage.output_tokens * (prices.output_price or 0.0)
        return replace(usage, cost_usd=cost)

    @property
    def _embedding(self) -> ModelInfo:
        return self._priced(self.embedding_model, self._config.embedding_price, None)

    @property
    def _llm(self) -> ModelInfo:
        return self._priced(self.llm_model, self._config.llm_input_price, self._config.llm_output_price)

    def _priced(self, name: str, input_price: float | None, output_price: float | None) -> ModelInfo:
        """Give a model with its prices: as set, else as the server's list says."""
        listed = self._listed(name)
        return replace(
            listed,
            name=name,
            input_price=listed.input_price if input_price is None else input_price,
            output_price=listed.output_price if output_price is None else output_price,
        )

    def _listed(self, name: str) -> ModelInfo:
        """Give what the server's list says of a model, nothing where it says nothing."""
        return find_model(name, self._models[1]) or ModelInfo(name)

    async def llm_info(self) -> ModelInfo:
        """Say what is known of the model that analyzes: its prices as set, else as listed."""
        await self.models()
        return self._llm

    async def models(self) -> Sequence[ModelInfo]:
        """List the models that the server knows, asked for every few minutes; empty where it does not say."""
        if time.monotonic() - self._models[0] > _MODELS_SECONDS:
            found: list[ModelInfo] = []
            for path in self.model_paths:
                found += _models(await self._server.get(path))
            self._models = (time.monotonic(), found)
        return self._models[1]

    async def balance(self) -> Balance | None:
        """Nobody pays for calls of one's own server."""
        return None

    async def close(self) -> None:
        """Hang up."""
        await self._server.close()


class EmbeddingProvider(OpenAiProvider):
    """A server that speaks OpenAI's API and only embeds: another one answers."""

    host_setting, key_setting = "embedding_host", "embedding_key"


class OpenRouterProvider(OpenAiProvider):
    """OpenRouter: the same API, with who asks, what it costs, and what is left."""

    name = "openrouter"
    host_setting, key_setting = "openrouter_host", "openrouter_key"
    headers: ClassVar[Mapping[str, str]] = {
        "HTTP-Referer": "https://github.com/opspipe/opspipe",
        "X-Title": "opspipe",
    }
    model_paths: ClassVar[Sequence[str]] = ("/models", "/embeddings/models")

    def _chat(self, model: str, prompt: Prompt, form: str) -> dict[str, Any]:
        return super()._chat(model, prompt, form) | {"usage": {"include": True}}

    async def balance(self) -> Balance | None:
        """Ask what the key has spent and what is left; a key without a limit has no remainder."""
        answer = await self._server.get("/key")
        data = (answer or {}).get("data")
        if not isinstance(data, dict):
            raise InvalidAnswerError("OpenRouter did not say what is left of the key")
        remaining = data.get("limit_remaining")
        if data.get("limit") is None:
            remaining = None
        return Balance(float(data.get("usage") or 0.0), None if remaining is None else float(remaining))


def _require(model: str, setting: str) -> str:
    if not model:
        raise FatalError(f"no model is set: say which with `opspipe settings set {setting} NAME`")
    return model


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value).decode()


def _models(answer: Json | None) -> list[ModelInfo]:
    data = (answer or {}).get("data")
    if not isinstance(data, list):
        return []
    return [_model(item) for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]


def _model(item: Mapping[str, Any]) -> ModelInfo:
    meta = item.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    # What is loaded takes less than what the model was made for.
    places = [item.get(name) for name in ("loaded_context_length", "context_length", "max_context_length")]
    places += [item.get("max_model_len"), meta.get("n_ctx"), meta.get("n_ctx_train")]
    pricing = item.get("pricing")
    pricing = pricing if isinstance(pricing, dict) else {}
    return ModelInfo(
        item["id"],
        next((value for value in places if isinstance(value, int) and value > 0), None),
        _price(pricing.get("prompt")),
        _price(pricing.get("completion")),
    )


def _price(value: object) -> float | None:
    """OpenRouter gives prices as text, and -1 where they depend on what is chosen."""
    try:
        price = float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        return None
    return price if price is not None and price >= 0 else None
