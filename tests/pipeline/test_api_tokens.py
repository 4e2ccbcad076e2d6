"""Tokens: valid until they expire or are revoked, and coarsely when they were used."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import get_engine, transaction
from pipeline.errors import InputError, NotFoundError
from pipeline.tokens import (
    LONGEST_LIFE,
    create_token,
    list_tokens,
    make_token,
    note_use,
    revoke_token,
)
from pipeline.users import create_user
from schemas.enums import UserRole
from tests.bearers import find_bearer

ANN = "ann@example.com"
DAY = timedelta(days=1)


@pytest.fixture
def ann(session: Session) -> Session:
    create_user(session, ANN, UserRole.USER)
    session.commit()
    return session


def _last_used(session: Session) -> datetime | None:
    (view,) = list_tokens(session)
    return view.last_used_at


def _writes(session: Session) -> object:
    """The row's version: another one after any write."""
    return session.scalar(text("SELECT xmin::text || ctid::text FROM api_tokens"))


def test_a_token_stands_for_its_user_and_is_stored_as_a_hash(ann: Session) -> None:
    token = create_token(ann, email="Ann@Example.com", name="t")
    bearer = find_bearer(ann, token)
    assert bearer is not None
    assert (bearer.email, bearer.role) == (ANN, UserRole.USER)
    assert token not in str(ann.execute(text("SELECT * FROM api_tokens")).mappings().one())
    for other in ("", "otk_", token[:-1], token.upper(), f"{token} "):
        assert find_bearer(ann, other) is None


def test_a_token_of_nobody_is_refused(session: Session) -> None:
    with pytest.raises(NotFoundError, match=r"there is no user 'ann@example.com'"):
        create_token(session, email=ANN, name="t")


def test_an_expired_token_is_refused_at_once_also_in_a_transaction_that_began_before(ann: Session) -> None:
    made = make_token(ann, email=ANN, name="t", expires_in=timedelta(seconds=0.2))
    assert find_bearer(ann, made.token) is not None
    ann.execute(text("SELECT pg_sleep(0.3)"))
    assert find_bearer(ann, made.token) is None


def test_a_listing_shows_when_a_token_expires(ann: Session) -> None:
    made = make_token(ann, email=ANN, name="a", expires_in=DAY)
    create_token(ann, email=ANN, name="b")
    first, second = list_tokens(ann)
    assert first.expires_at == made.expires_at
    assert first.expires_at is not None
    assert abs(first.expires_at - first.created_at - DAY) < timedelta(minutes=1)
    assert (second.expires_at, second.last_used_at) == (None, None)


@pytest.mark.parametrize("life", [timedelta(0), -DAY, LONGEST_LIFE + DAY, timedelta.max])
def test_a_life_that_no_token_has_is_refused(ann: Session, life: timedelta) -> None:
    with pytest.raises(InputError, match="at most 36,500 days"):
        create_token(ann, email=ANN, name="t", expires_in=life)
    assert create_token(ann, email=ANN, name="t", expires_in=LONGEST_LIFE)


def test_a_revoked_token_is_refused_at_once_and_stays_revoked_since_then(ann: Session) -> None:
    made = make_token(ann, email=ANN, name="t")
    revoke_token(ann, made.id)
    assert find_bearer(ann, made.token) is None
    (revoked,) = list_tokens(ann)
    ann.commit()
    revoke_token(ann, made.id)
    assert list_tokens(ann) == [revoked]
    with pytest.raises(NotFoundError, match="opspipe token list"):
        revoke_token(ann, "other")


def test_somebody_elses_token_is_neither_listed_nor_revoked(ann: Session) -> None:
    bob = create_user(ann, "bob@example.com", UserRole.USER)
    of_ann, of_bob = (make_token(ann, email=email, name="t") for email in (ANN, bob.email))
    assert [view.id for view in list_tokens(ann, profile_id=bob.id)] == [of_bob.id]
    with pytest.raises(NotFoundError):
        revoke_token(ann, of_ann.id, profile_id=bob.id)
    assert find_bearer(ann, of_ann.token) is not None
    revoke_token(ann, of_bob.id, profile_id=bob.id)
    assert find_bearer(ann, of_bob.token) is None


def use(session: Session, token: str) -> None:
    """Do what each request does."""
    bearer = find_bearer(session, token)
    assert bearer is not None
    if bearer.is_use_due:
        note_use(session, bearer.token_id)


def test_a_use_is_written_down_once_in_five_minutes(ann: Session) -> None:
    token = create_token(ann, email=ANN, name="t")
    use(ann, token)
    first, version = _last_used(ann), _writes(ann)
    assert first is not None
    use(ann, token)
    assert _writes(ann) == version
    ann.execute(text("UPDATE api_tokens SET last_used_at = last_used_at - interval '5 minutes'"))
    use(ann, token)
    assert first < (_last_used(ann) or first)


def test_a_use_that_cannot_be_written_down_does_not_matter(ann: Session) -> None:
    token = create_token(ann, email=ANN, name="t")
    ann.commit()
    ann.execute(text("SET TRANSACTION READ ONLY"))
    use(ann, token)
    assert _last_used(ann) is None
    ann.commit()


def test_a_request_does_not_wait_for_who_holds_the_token(
    ann: Session, open_transactions: Callable[[], int]
) -> None:
    token = create_token(ann, email=ANN, name="t")
    ann.commit()
    with get_engine().connect() as other:
        other.execute(text("SELECT FROM api_tokens FOR UPDATE"))
        with transaction() as session:
            session.execute(text("SET LOCAL lock_timeout = '100ms'"))
            use(session, token)
        assert open_transactions() == 1
    assert _last_used(ann) is None
    with transaction() as session:
        use(session, token)
    ann.commit()
    assert _last_used(ann) is not None
