"""Bodies in JSON: bounded in size and depth, and told what is wrong with them."""

from typing import Any

import orjson
from flask import Flask, Request, request
from flask.json.provider import JSONProvider
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from api.streams import bound_silence

# A body in JSON is held in memory, several times over; a file of any size is not.
_MOST_JSON_BYTES = 32 * 1024**2
_MOST_DEPTH = 32


class OrjsonProvider(JSONProvider):
    """JSON by orjson, which refuses NaN, half characters and whatever else is none."""

    def dumps(self, obj: Any, **_: Any) -> str:  # noqa: ANN401 - as the base class has it
        """Write an object as JSON."""
        return orjson.dumps(obj, option=orjson.OPT_NAIVE_UTC).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:  # noqa: ANN401 - as the base class has it
        """Read JSON.

        Raises:
            ValueError: it is none, or too deep.
        """
        found = orjson.loads(s)
        _check_depth(found)
        return found


class BoundedRequest(Request):
    """A request whose JSON is refused where it is too large, too deep, or none."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:  # noqa: ANN401, ARG002, FBT001, FBT002 - as the base class has it
        """Give the body; also who would be content with nothing is told what is wrong.

        Raises:
            BadRequest: the body is no JSON.
            RequestEntityTooLarge: it is too large.
        """
        if self.is_json:
            if (self.content_length or 0) > _MOST_JSON_BYTES:
                raise RequestEntityTooLarge(
                    f"JSON may have {_MOST_JSON_BYTES:,} bytes at most: send a file as multipart/form-data"
                )
            self.max_content_length = _MOST_JSON_BYTES
        return super().get_json(force=force, silent=False, cache=cache)

    def on_json_loading_failed(self, e: ValueError | None) -> Any:  # noqa: ANN401 - as the base class has it
        """Say what is wrong with it."""
        if e is None:
            raise BadRequest("the body is not JSON: send it with Content-Type: application/json")
        raise BadRequest(f"the body is not JSON: {e}")


def register_requests(app: Flask) -> None:
    """Have bodies read by this module."""
    app.request_class = BoundedRequest
    app.json = OrjsonProvider(app)
    app.before_request(_refuse_packed)
    app.before_request(bound_silence)


def _refuse_packed() -> None:
    # Nothing here unpacks: a few bytes may become any number. Taken as it is, it would be told to be no JSON.
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() != "identity":
        raise BadRequest("the body has a Content-Encoding, and none is unpacked here: send it as it is")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            item
            for container in level
            if isinstance(container, (dict, list))
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {_MOST_DEPTH} deep")
