"""What a route takes and gives, said once: the models that check it also describe it in OpenAPI 3.1.

A view says in its signature what it takes (`json: SomeBody`, `query: SomeQuery`), and with `answers` what it
gives. `/api/openapi.json` is made of that, and `/api/docs` shows it without any file from outside.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from typing import Any

from flask import Blueprint, Flask, Request, Response, current_app, jsonify, send_from_directory
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from spectree import Response as Described
from spectree import SpecTree
from spectree.plugins.flask_plugin import FlaskPlugin
from werkzeug.routing import Rule

from api.access import EVERYBODY, access_to
from api.described import ALWAYS, PLAIN, RAW_BODIES, describe_plain, raw_body
from api.errors import WrongRequestError
from schemas.bodies import Body, ErrorAnswer

_UNDESCRIBED = ("/api/docs", "/api/openapi.json", "/static")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>opspipe API</title>
<link rel="stylesheet" href="/api/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/api/docs/swagger-ui-bundle.js"></script>
<script src="/api/docs/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({url: "/api/openapi.json", dom_id: "#swagger-ui", docExpansion: "list"});\n'
_STATIC = frozenset({"swagger-ui-bundle.js", "swagger-ui.css"})

blueprint = Blueprint("docs", __name__, url_prefix="/api")


class _Plugin(FlaskPlugin):
    """Flask as Spectree knows it, but for wrong requests, which are answered as all errors are."""

    def request_validation(self, request: Request, *parts: type[Body] | None) -> None:
        """Check what was sent.

        Raises:
            WrongRequestError: it is not as its model says.
        """
        query, json, form, *others = parts
        if json is not None and form is None:
            # Spectree would leave a form unread here, and the view without its body.
            request.get_json()
        # A form holds a file, which is stored as it comes: the view reads it, if no JSON was sent.
        json = json if form is None or request.is_json else None
        try:
            super().request_validation(request, query, json, None, *others)  # type: ignore[no-untyped-call]  # it has no types
        except ValidationError as error:
            raise WrongRequestError from error


_spec = SpecTree(
    backend=_Plugin,
    title="opspipe",
    description="Batches of tasks and feedback on their way into PostgreSQL, embedded and analyzed.",
    version="1",
    mode="strict",
    validation_error_status=400,
    validation_error_model=ErrorAnswer,
    naming_strategy=lambda model: model.__name__,
    nested_naming_strategy=lambda _parent, child: child,
)


def answers(
    body: type[Body] | None,
    *,
    status: int = 200,
    also: Mapping[int, type[Body]] | None = None,
    fails: Iterable[int] = (),
    form: type[Body] | None = None,
) -> Callable[[Callable[..., object]], Callable[..., ResponseReturnValue]]:
    """Say what a view gives, and have checked what it takes.

    Args:
        body: the model of what it gives; None for nothing.
        status: with which status.
        also: other models, by status.
        fails: statuses of errors besides those of every route.
        form: the multipart form that it reads.
    """
    models: dict[int, type[Body] | None] = dict.fromkeys((*ALWAYS, *fails), ErrorAnswer)
    models |= {status: body, **(also or {})}
    described = Described(**{f"HTTP_{code}": model for code, model in models.items()})
    check: Callable[[Callable[..., object]], Callable[..., ResponseReturnValue]]
    check = _spec.validate(resp=described, form=form)
    return check


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Answer with the description of all routes."""
    return jsonify(describe(current_app))


@blueprint.get("/docs")
def docs() -> Response:
    """Show the description."""
    return Response(_PAGE, content_type="text/html; charset=utf-8")


@blueprint.get("/docs/<path:name>")
def docs_file(name: str) -> Response:
    """Answer with a file that the page needs."""
    if name == "start.js":
        return Response(_START, content_type="text/javascript; charset=utf-8")
    # A name that is none of them is not found there either.
    return send_from_directory(_static_folder(), name if name in _STATIC else "-", max_age=86_400)


@cache
def _static_folder() -> str:
    found = find_spec("flask_swagger_ui")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("flask_swagger_ui")
    return f"{found.submodule_search_locations[0]}/dist"


def describe(app: Flask) -> dict[str, Any]:
    """Give the description of an application's routes in OpenAPI 3.1: with the role that each needs."""
    described: dict[str, Any] = deepcopy(_spec.spec)
    described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(_UNDESCRIBED):
            continue
        path = rule.rule.replace("<path:", "<").replace("<", "{").replace(">", "}")
        for method in sorted(rule.methods or set()):
            route = f"{method} {rule.rule}"
            if _is_flasks_own(method, rule):
                continue
            operation = described["paths"].setdefault(path, {}).setdefault(method.lower(), {})
            _complete(operation, route, rule, app.view_functions[rule.endpoint].__doc__ or "")
    return described


def _is_flasks_own(method: str, rule: Rule) -> bool:
    """Tell whether Flask answers a method that the route did not ask for."""
    if method == "HEAD":
        return "GET" in (rule.methods or set())
    return method == "OPTIONS" and (f"{method} {rule.rule}" not in PLAIN or len(rule.methods or set()) > 1)


def _complete(operation: dict[str, Any], route: str, rule: Rule, documentation: str) -> None:
    """Say of an operation what no model says."""
    if route in PLAIN:
        operation |= describe_plain(route, documentation.split("\n", 1)[0])
        operation["parameters"] += [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in sorted(rule.arguments)
        ]
    if route in RAW_BODIES:
        operation["requestBody"] = raw_body(RAW_BODIES[route])
    access = access_to(route.split(" ", 1)[0], rule.rule) or EVERYBODY
    operation["operationId"] = rule.endpoint
    operation["tags"] = [rule.rule.removeprefix("/api").split("/")[1]]
    operation["security"] = [] if access.least is None else [{"token": []}]
    if access.least is not None:
        needs = f"Needs the role {access.least}" + (
            ", and that the project is yours or you are ADMIN." if access.is_for_owners else "."
        )
        operation["description"] = f"{operation.get('description') or ''} {needs}".strip()
