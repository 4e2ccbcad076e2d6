"""`/api/admin/bonus-windows`: windows and standings."""

from dataclasses import asdict

from flask import Blueprint

from api.access import bearer
from api.openapi import answers
from pipeline.bonus import (
    create_window,
    delete_window,
    list_windows,
    show_standings,
    update_window,
)
from pipeline.database import transaction
from schemas.bonus_bodies import (
    NewWindow,
    StandingsAnswer,
    WindowAnswer,
    WindowChange,
    WindowDeletion,
    WindowList,
    WindowQuery,
)
from schemas.reference import BonusWindow

blueprint = Blueprint("bonus", __name__, url_prefix="/api/admin/bonus-windows")


@blueprint.get("")
@answers(WindowList)
def windows() -> WindowList:
    """Answer with all windows."""
    with transaction() as session:
        return WindowList(windows=[_body(window) for window in list_windows(session)])


@blueprint.post("")
@answers(WindowAnswer, status=201)
def create(json: NewWindow) -> tuple[WindowAnswer, int]:
    """Make a window."""
    with transaction() as session:
        made = create_window(session, **json.model_dump(by_alias=False), created_by=bearer().profile_id)
        return _body(made), 201


@blueprint.patch("")
@answers(WindowAnswer, fails=[409])
def change(json: WindowChange) -> WindowAnswer:
    """Change a window whose result is not frozen yet."""
    with transaction() as session:
        return _body(update_window(session, json.window_id, **json.changes()))


@blueprint.delete("")
@answers(WindowDeletion)
def delete(query: WindowQuery) -> WindowDeletion:
    """Delete a window with its standings."""
    with transaction() as session:
        delete_window(session, query.window_id)
    return WindowDeletion(window_id=query.window_id)


@blueprint.get("/records")
@answers(StandingsAnswer)
def standings(query: WindowQuery) -> StandingsAnswer:
    """Answer with a window's standings as they were last counted, each minute."""
    with transaction() as session:
        found = show_standings(session, query.window_id)
    return StandingsAnswer.model_validate(asdict(found))


def _body(window: BonusWindow) -> WindowAnswer:
    return WindowAnswer(**{name: getattr(window, name) for name in WindowAnswer.model_fields})
