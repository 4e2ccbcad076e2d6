"""`opspipe user`, `token`: who may use the API, and by which tokens."""

from datetime import timedelta
from typing import Annotated

import typer

from cli.common import database
from cli.output import JsonOption, console, print_json, print_table
from pipeline.tokens import LONGEST_LIFE, list_tokens, make_token, revoke_token
from pipeline.users import change_role, create_user, delete_user, find_user, list_users
from schemas.enums import UserRole

user_app = typer.Typer(no_args_is_help=True, help="Users and what they may do.")
token_app = typer.Typer(no_args_is_help=True, help="Bearer tokens of the API.")

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="E-mail address, or id.")]
RoleOption = Annotated[
    UserRole,
    typer.Option(
        case_sensitive=False,
        help="PENDING: nothing; USER: read and analyze; MANAGER: ingest, jobs and windows too; ADMIN: all.",
    ),
]


@user_app.command("create")
def user_create(
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    *,
    role: RoleOption = UserRole.PENDING,
    as_json: JsonOption = False,
) -> None:
    """Make a user; the first ADMIN is made by this command."""
    with database() as session:
        user = create_user(session, email, role)
    if as_json:
        print_json(user)
    else:
        console.print(f"user {user.email} is {user.role}", highlight=False, markup=False)


@user_app.command("list")
def user_list(*, as_json: JsonOption = False) -> None:
    """List the users, oldest first."""
    with database() as session:
        users = list_users(session)
    if as_json:
        print_json(users)
        return
    print_table(
        ("id", "user", "role", "created (UTC)"),
        ((user.id, user.email, user.role, f"{user.created_at:%Y-%m-%d %H:%M}") for user in users),
    )


@user_app.command("role")
def user_role(user: UserArgument, role: Annotated[UserRole, typer.Argument(case_sensitive=False)]) -> None:
    """Give a user another role; it holds from the next request on."""
    with database() as session:
        changed = change_role(session, user, role)
    console.print(f"user {changed.email} is {changed.role}", highlight=False, markup=False)


@user_app.command("delete")
def user_delete(user: UserArgument) -> None:
    """Delete a user with every token; projects stay, without an owner."""
    with database() as session:
        deleted = delete_user(session, user)
    console.print(f"user {deleted.email} is deleted", highlight=False, markup=False)


@token_app.command("create")
def token_create(
    email: UserArgument,
    *,
    name: Annotated[str, typer.Option(help="What it is for.")] = "token",
    expires: Annotated[
        int | None,
        typer.Option(
            metavar="DAYS",
            min=1,
            max=LONGEST_LIFE.days,
            help="How long it is valid; else until revoked.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token for a user; it is shown this once."""
    with database() as session:
        expires_in = None if expires is None else timedelta(days=expires)
        made = make_token(session, email=email, name=name, expires_in=expires_in)
    if as_json:
        print_json(made)
    else:
        console.print(made.token, highlight=False)


@token_app.command("list")
def token_list(
    *,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Only this user's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tokens; when one was last used is exact to five minutes."""
    with database() as session:
        tokens = list_tokens(session, profile_id=find_user(session, user).id if user else None)
    if as_json:
        print_json(tokens)
        return
    print_table(
        ("id", "name", "user", "role", "created", "expires", "last used", "revoked"),
        (
            (t.id, t.name, t.email, t.role, t.created_at, t.expires_at, t.last_used_at, t.revoked_at)
            for t in tokens
        ),
    )


@token_app.command("revoke")
def token_revoke(token_id: str) -> None:
    """Revoke a token at once."""
    with database() as session:
        revoke_token(session, token_id)
    console.print(f"token {token_id} is revoked")
