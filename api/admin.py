"""`/api/admin`: settings, users, tokens and the audit log."""

from dataclasses import asdict
from datetime import timedelta

from flask import Blueprint

from api.openapi import answers
from pipeline.audit import list_acts
from pipeline.database import transaction
from pipeline.system_settings import list_settings, write_setting
from pipeline.tokens import list_tokens, make_token, revoke_token
from pipeline.users import change_role, create_user, delete_user, list_users
from schemas.admin_bodies import (
    ActAnswer,
    ActList,
    AuditQuery,
    NewTokenAnswer,
    NewTokenBody,
    NewUser,
    RoleBody,
    SettingBody,
    SettingsAnswer,
    TokenAnswer,
    TokenList,
    TokenQuery,
    TokenRevocation,
    TokensQuery,
    UserAnswer,
    UserList,
    UserQuery,
)

blueprint = Blueprint("admin", __name__, url_prefix="/api/admin")


@blueprint.get("/settings")
@answers(SettingsAnswer)
def settings() -> SettingsAnswer:
    """Answer with every setting."""
    with transaction() as session:
        return SettingsAnswer(settings=list_settings(session))


@blueprint.post("/settings")
@answers(SettingsAnswer)
def change_setting(json: SettingBody) -> SettingsAnswer:
    """Change a setting for all processes; it takes effect at the next chunk."""
    with transaction() as session:
        write_setting(session, json.key, json.value)
        return SettingsAnswer(settings=list_settings(session))


@blueprint.get("/users")
@answers(UserList)
def users() -> UserList:
    """Answer with all users."""
    with transaction() as session:
        return UserList(users=[UserAnswer.model_validate(asdict(user)) for user in list_users(session)])


@blueprint.post("/users")
@answers(UserAnswer, status=201, fails=[409])
def make_user(json: NewUser) -> tuple[UserAnswer, int]:
    """Make a user."""
    with transaction() as session:
        made = create_user(session, json.email, json.role)
    return UserAnswer.model_validate(asdict(made)), 201


@blueprint.patch("/users")
@answers(UserAnswer, fails=[409])
def give_role(json: RoleBody) -> UserAnswer:
    """Change a user's role; the last ADMIN stays one."""
    with transaction() as session:
        return UserAnswer.model_validate(asdict(change_role(session, json.user_id, json.role)))


@blueprint.delete("/users")
@answers(UserAnswer, fails=[409])
def remove_user(query: UserQuery) -> UserAnswer:
    """Delete a user with the tokens; the projects stay, without owner. The last ADMIN stays."""
    with transaction() as session:
        return UserAnswer.model_validate(asdict(delete_user(session, query.user_id)))


@blueprint.get("/tokens")
@answers(TokenList)
def tokens(query: TokensQuery) -> TokenList:
    """Answer with the tokens, of everybody or of one user."""
    with transaction() as session:
        found = list_tokens(session, profile_id=query.user_id)
    return TokenList(tokens=[TokenAnswer.model_validate(asdict(token)) for token in found])


@blueprint.post("/tokens")
@answers(NewTokenAnswer, status=201)
def new_token(json: NewTokenBody) -> tuple[NewTokenAnswer, int]:
    """Make a token; it is shown this once."""
    life = None if json.expires_in_days is None else timedelta(days=json.expires_in_days)
    with transaction() as session:
        made = make_token(session, email=json.email, name=json.name, expires_in=life)
    return NewTokenAnswer(id=made.id, token=made.token, expires_at=made.expires_at), 201


@blueprint.delete("/tokens")
@answers(TokenRevocation)
def revoke(query: TokenQuery) -> TokenRevocation:
    """Revoke a token at once; revoking it again changes nothing."""
    with transaction() as session:
        revoke_token(session, query.token_id)
    return TokenRevocation(token_id=query.token_id)


@blueprint.get("/audit")
@answers(ActList)
def audit(query: AuditQuery) -> ActList:
    """Answer with a page of what was done by whom."""
    with transaction() as session:
        page = list_acts(
            session,
            actor=query.actor,
            project_id=query.project_id,
            thing_id=query.thing_id,
            action=query.action,
            limit=query.limit,
            cursor=query.cursor,
        )
    return ActList(
        acts=[ActAnswer.model_validate(asdict(act)) for act in page.acts], next_cursor=page.next_cursor
    )
