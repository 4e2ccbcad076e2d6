"""`Idempotency-Key`: a request that is sent again gets the job, and the answer, that the first one got."""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask import Response, jsonify, request

from api.access import bearer
from pipeline.database import transaction
from pipeline.errors import KeyTakenError
from pipeline.idempotency import Answer, find_answer, keep_answer, keyed
from schemas.bodies import Body

P = ParamSpec("P")
Answered = tuple[Body | Response, int]
# An answer made anew of the job that a key names, where a crash came before the first one was kept.
Rebuild = Callable[[str], Answered]

_HEADER = "Idempotency-Key"


def once(rebuild: Rebuild) -> Callable[[Callable[P, Answered]], Callable[P, Answered]]:
    """Have a view whose request is JSON work once for each key; without a key it works each time."""

    def decorate(view: Callable[P, Answered]) -> Callable[P, Answered]:
        @wraps(view)
        def answer(*args: P.args, **kwargs: P.kwargs) -> Answered:
            if _HEADER not in request.headers:
                return view(*args, **kwargs)
            sha256 = hashlib.sha256(request.get_data()).hexdigest()
            return answer_once(sha256, lambda: view(*args, **kwargs), rebuild)

        return answer

    return decorate


def answer_once(request_sha256: str, work: Callable[[], Answered], rebuild: Rebuild) -> Answered:
    """Work, unless a request with this one's key has made its job already: then answer as it was answered.

    Args:
        request_sha256: tells requests with one key apart.
        work: makes the job and the answer.
        rebuild: makes an answer of a job that is there.

    Raises:
        InputError: the key is none.
        DuplicateError: the key was used for another request.
    """
    key = request.headers.get(_HEADER)
    if key is None or request.url_rule is None:
        return work()
    who, route = bearer().profile_id, f"{request.method} {request.url_rule.rule}"

    def find() -> Answer | None:
        with transaction() as session:
            return find_answer(session, who, key, request_sha256, route=route)

    with keyed(who, key, request_sha256, route):
        found = find()
        if found is None:
            try:
                body, status = work()
            except KeyTakenError:
                # Another one was at it at the same time.
                found = find()
                if found is None:
                    raise
    if found is not None:
        return _repeat(found, rebuild)
    if isinstance(body, Body):
        with transaction() as session:
            keep_answer(session, who, key, status, body.model_dump(mode="json"))
    return body, status


def _repeat(found: Answer, rebuild: Rebuild) -> Answered:
    if found.status is None:
        return rebuild(found.job_id or "")
    response = jsonify(found.body)
    response.headers["Idempotent-Replayed"] = "true"
    return response, found.status
