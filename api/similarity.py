"""`/api/records/similar` and `/api/similarity-flags`: records that are like others."""

from dataclasses import asdict

from flask import Blueprint

from api.openapi import answers
from pipeline.database import transaction
from pipeline.projects import find_project
from pipeline.similarity import Neighbour, list_flags, nearest_records, search_records
from schemas.ai_bodies import (
    FlagAnswer,
    FlagList,
    FlagsQuery,
    NeighbourAnswer,
    SimilarAnswer,
    SimilarBody,
)

blueprint = Blueprint("similarity", __name__, url_prefix="/api")


@blueprint.post("/records/similar")
@answers(SimilarAnswer, fails=[502])
def similar(json: SimilarBody) -> SimilarAnswer:
    """Answer with the records nearest to a record of the same project, or to a text."""
    records = [NeighbourAnswer.model_validate(asdict(found)) for found in _find(json)]
    return SimilarAnswer(records=records)


def _find(body: SimilarBody) -> list[Neighbour]:
    project_id = None
    with transaction() as session:
        if body.project_id is not None:
            project_id = find_project(session, body.project_id).id
        if body.record_id is not None:
            return nearest_records(session, body.record_id, project_id=project_id, limit=body.limit)
    return search_records(project_id or "", body.text or "", limit=body.limit)


@blueprint.get("/similarity-flags")
@answers(FlagList)
def flags(query: FlagsQuery) -> FlagList:
    """Answer with a project's tasks that are nearly the same as an earlier one of the same person."""
    with transaction() as session:
        found = list_flags(session, find_project(session, query.project_id).id, limit=query.limit)
    return FlagList(flags=[FlagAnswer.model_validate(asdict(flag)) for flag in found])
