"""`/api/records`: records, page by page."""

from dataclasses import asdict

from flask import Blueprint

from api.openapi import answers
from pipeline.database import transaction
from pipeline.projects import find_project
from pipeline.records import RecordFilter, list_records
from schemas.enums import SortDirection
from schemas.record_bodies import RecordAnswer, RecordList, RecordsQuery

blueprint = Blueprint("records", __name__, url_prefix="/api")


@blueprint.get("/records")
@answers(RecordList)
def records(query: RecordsQuery) -> RecordList:
    """Answer with a page of records."""
    with transaction() as session:
        page = list_records(
            session,
            RecordFilter(
                project_id=find_project(session, query.project_id).id if query.project_id else None,
                type=query.type,
                category=query.category,
                search=query.search,
                has_alignment=query.has_alignment,
                ingest_job_id=query.ingest_job_id,
            ),
            sort_by=query.sort_by,
            is_ascending=query.order is SortDirection.ASC,
            limit=query.limit,
            cursor=query.cursor,
            with_embedding=query.include is not None,
        )
    found = [RecordAnswer.model_validate(asdict(record)) for record in page.records]
    return RecordList(records=found, next_cursor=page.next_cursor)
