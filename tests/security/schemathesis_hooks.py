"""What schemathesis is told beside the description: who asks, ids of things that are there, and raw bodies.

It runs in a process of its own, which finds tokens and ids as JSON in SCHEMATHESIS_WORLD.
"""

import json
import os
import zlib
from typing import Any

import schemathesis

_WORLD = json.loads(os.environ["SCHEMATHESIS_WORLD"])
_KNOWN: dict[str, str] = _WORLD["known"]
# Null is nobody.
_TOKENS: list[str | None] = _WORLD["tokens"]


@schemathesis.serializer("application/pdf", "application/offset+octet-stream")
def raw(_context: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_call(_context: object, case: Any, **_: object) -> None:  # noqa: ANN401 - as schemathesis has it
    """Let a case be sent by somebody, and by the same one when it is shrunk or replayed."""
    case.headers.pop("Authorization", None)
    number = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode("utf-8", "replace"))
    token = _TOKENS[number % len(_TOKENS)]
    if token is not None:
        case.headers["Authorization"] = f"Bearer {token}"


def _fill_in(context: Any, values: Any) -> Any:  # noqa: ANN401 - whatever was made
    # What is deleted would be missing for all that comes after.
    if isinstance(values, dict) and context.operation.method.upper() != "DELETE":
        for name in values.keys() & _KNOWN.keys():
            # Half of them, and the same ones when the case is shrunk or replayed.
            if isinstance(values[name], str) and len(values[name]) % 2:
                values[name] = _KNOWN[name]
    return values


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:  # noqa: ANN401 - as above
    return _fill_in(context, body)


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:  # noqa: ANN401 - as above
    return _fill_in(context, query)


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:  # noqa: ANN401 - as above
    return _fill_in(context, path_parameters)
