"""Users: made once, found by address or id, and never without an ADMIN once there was one."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import get_engine, transaction
from pipeline.errors import ConflictError, DuplicateError, InputError, NotFoundError
from pipeline.projects import ensure_project
from pipeline.tokens import create_token
from pipeline.users import change_role, create_user, delete_user, find_user, list_users
from schemas.enums import UserRole
from tests.bearers import find_bearer


def _count(session: Session, table: str) -> int:
    return int(session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)  # noqa: S608 - names of our own


def test_an_address_is_stored_trimmed_and_in_lower_case(session: Session) -> None:
    made = create_user(session, "  Ann@Example.COM\n", UserRole.MANAGER)
    assert (made.email, made.role) == ("ann@example.com", UserRole.MANAGER)
    assert find_user(session, "ANN@example.com") == find_user(session, made.id) == made
    assert create_user(session, "bob@example.com").role is UserRole.PENDING
    assert {user.email for user in list_users(session)} == {"ann@example.com", "bob@example.com"}


@pytest.mark.parametrize(
    "address", ["", "ann", "@example.com", "ann@", "a b@example.com", "a@b@c", "a\0@b", f"{'a' * 250}@b.org"]
)
def test_what_is_no_address_is_refused(session: Session, address: str) -> None:
    with pytest.raises(InputError, match="no e-mail address"):
        create_user(session, address, UserRole.USER)
    assert _count(session, "auth.users") == 0


def test_a_second_user_of_an_address_is_refused_and_leaves_nothing(session: Session) -> None:
    create_user(session, "ann@example.com", UserRole.USER)
    with pytest.raises(DuplicateError, match=r"there is a user 'ann@example.com' already"):
        create_user(session, "Ann@example.com", UserRole.ADMIN)
    assert _count(session, "auth.users") == _count(session, "profiles") == 1
    assert find_user(session, "ann@example.com").role is UserRole.USER


def test_an_address_that_another_client_wrote_in_capitals_is_taken(session: Session) -> None:
    session.execute(
        text("""
            WITH made AS (INSERT INTO auth.users (id) VALUES (gen_random_uuid()) RETURNING id)
            INSERT INTO profiles (id, email) SELECT id, 'Ann@Example.com' FROM made
        """)
    )
    with pytest.raises(DuplicateError):
        create_user(session, "ann@example.com", UserRole.USER)


def test_of_many_who_make_one_user_at_once_one_does(session: Session) -> None:
    def make(_number: int) -> bool:
        try:
            with transaction() as own:
                create_user(own, "ann@example.com", UserRole.USER)
        except DuplicateError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(make, range(8))) == 1
    assert _count(session, "auth.users") == _count(session, "profiles") == 1


def test_a_profile_that_a_trigger_of_supabase_made_is_taken_over(session: Session) -> None:
    session.execute(
        text("""
            CREATE FUNCTION pg_temp.make_profile() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO public.profiles (id, email) VALUES (NEW.id, NEW.email);
                RETURN NEW;
            END $$;
            CREATE TRIGGER on_auth_user_created AFTER INSERT ON auth.users
            FOR EACH ROW EXECUTE FUNCTION pg_temp.make_profile();
        """)
    )
    made = create_user(session, "ann@example.com", UserRole.ADMIN)
    assert list_users(session) == [made]
    assert made.role is UserRole.ADMIN
    session.rollback()


def test_nobody_is_found_by_what_is_nobodys(session: Session) -> None:
    for who in ("nobody@example.com", uuid4(), "", "%"):
        with pytest.raises(NotFoundError, match="opspipe user list"):
            find_user(session, who)
        with pytest.raises(NotFoundError):
            change_role(session, who, UserRole.USER)
        with pytest.raises(NotFoundError):
            delete_user(session, who)


def test_a_role_holds_from_the_next_request_on(session: Session) -> None:
    create_user(session, "ann@example.com", UserRole.USER)
    token = create_token(session, email="ann@example.com", name="t")
    assert change_role(session, "Ann@example.com", UserRole.MANAGER).role is UserRole.MANAGER
    bearer = find_bearer(session, token)
    assert bearer is not None
    assert bearer.role is UserRole.MANAGER


def test_a_deleted_user_takes_tokens_along_and_leaves_projects_without_an_owner(session: Session) -> None:
    user = create_user(session, "ann@example.com", UserRole.USER)
    token = create_token(session, email="ann@example.com", name="t")
    project = ensure_project(session, "demo")
    owned = text('UPDATE projects SET "ownerId" = :owner WHERE id = :id')
    session.execute(owned, {"owner": user.id, "id": project.id})
    assert delete_user(session, user.id) == user
    assert find_bearer(session, token) is None
    assert [_count(session, table) for table in ("auth.users", "profiles", "api_tokens")] == [0, 0, 0]
    assert session.execute(text('SELECT id, "ownerId" FROM projects')).all() == [(project.id, None)]


def test_the_last_admin_is_neither_deleted_nor_given_another_role(session: Session) -> None:
    create_user(session, "ann@example.com", UserRole.ADMIN)
    create_user(session, "bob@example.com", UserRole.USER)
    with pytest.raises(ConflictError, match=r"the last ADMIN.*make another user ADMIN first"):
        delete_user(session, "ann@example.com")
    with pytest.raises(ConflictError, match="the last ADMIN"):
        change_role(session, "ann@example.com", UserRole.MANAGER)
    change_role(session, "ann@example.com", UserRole.ADMIN)  # which is no change
    change_role(session, "bob@example.com", UserRole.ADMIN)
    delete_user(session, "ann@example.com")
    assert [user.email for user in list_users(session)] == ["bob@example.com"]


def test_of_two_admins_who_take_each_other_away_at_once_one_stays(session: Session) -> None:
    names = ["ann@example.com", "bob@example.com"]

    def take_away(name: str) -> bool:
        try:
            with transaction() as own:
                if name == names[0]:
                    delete_user(own, name)
                else:
                    change_role(own, name, UserRole.USER)
        except ConflictError:
            return False
        return True

    for _ in range(10):
        session.execute(text("DELETE FROM auth.users"))
        for name in names:
            create_user(session, name, UserRole.ADMIN)
        session.commit()
        with ThreadPoolExecutor(2) as threads:
            assert sum(threads.map(take_away, names)) == 1
        assert sum(user.role is UserRole.ADMIN for user in list_users(session)) == 1
        session.commit()


def test_who_takes_an_admin_away_waits_for_who_does_the_same(session: Session) -> None:
    for name in ("ann@example.com", "bob@example.com"):
        create_user(session, name, UserRole.ADMIN)
    session.commit()
    delete_user(session, "ann@example.com")

    def demote() -> None:
        with transaction() as own:
            change_role(own, "bob@example.com", UserRole.USER)

    with ThreadPoolExecutor(1) as threads:
        demoted = threads.submit(demote)
        with get_engine().connect() as looking:
            waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            while not looking.scalar(waits):
                looking.rollback()
                assert not demoted.done()
        session.commit()
        with pytest.raises(ConflictError, match=r"bob@example.com is the last ADMIN"):
            demoted.result()
