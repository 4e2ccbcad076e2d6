"""The audit log: one row an act, in the act's own transaction, and no row ever changes."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pipeline.analyze import align_record, analyze_trends, start_analysis, start_due_analyses
from pipeline.audit import SYSTEM, Act, acting, list_acts, note
from pipeline.bonus import create_window, delete_window, update_window
from pipeline.database import get_engine, transaction
from pipeline.errors import InputError, PipelineError
from pipeline.ingest.fetched import submit_url
from pipeline.ingest.submit import Submission, submit_csv
from pipeline.jobs import cancel_job, retry_job
from pipeline.projects import ProjectRef, ensure_project, set_guidelines
from pipeline.removal import delete_job
from pipeline.similarity import build_indexes, drop_indexes
from pipeline.system_settings import write_setting
from pipeline.tokens import make_token, revoke_token
from pipeline.users import change_role, create_user, delete_user
from pipeline.vectorize import start_vectorization
from schemas.enums import RecordType, UserRole
from schemas.options import AnalysisOptions, IngestOptions
from tests.ai_server import AiServer

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]

ANN, BOB = "ann@example.com", "bob@example.com"
ANN_ID = UUID(int=1)
CSV = "id,prompt,rating\n" + "".join(
    f"{number},write the story {number},{1 + number % 5}\n" for number in range(20)
)
START = datetime(2026, 3, 16, tzinfo=UTC)


def acts(session: Session) -> list[Act]:
    session.rollback()
    found = list(list_acts(session, limit=1_000).acts)
    # An index that is made CONCURRENTLY waits for every transaction.
    session.rollback()
    return found


@dataclass
class Stand:
    """What acts are done to: a project with guidelines, a loaded job, users and a window."""

    session: Session
    project: ProjectRef
    job_id: str
    pdf: bytes
    token_id: str
    window_id: UUID

    def in_transaction(self, act: Callable[[Session], object]) -> None:
        with transaction() as session:
            act(session)


@pytest.fixture
def stand(session: Session, guided: ProjectRef, submit: Submit, run_all: RunAll, tmp_path: Path) -> Stand:
    submission = submit(CSV)
    run_all(submission)
    for email in (ANN, BOB):
        create_user(session, email, UserRole.ADMIN)
    token_id = make_token(session, email=ANN, name="t").id
    window_id = _window(session)
    session.commit()
    return Stand(session, guided, submission.job_id, (tmp_path / "g.pdf").read_bytes(), token_id, window_id)


def _window(session: Session, **fields: Any) -> UUID:  # noqa: ANN401 - any field of a window
    known: dict[str, Any] = {"name": "week", "start_time": START, "end_time": START + timedelta(days=7)}
    return create_window(session, **(known | {"created_by": UUID(int=0), "target_task_count": 2} | fields)).id


# What is done inside the transaction that is given, by the name of its action.
IN_TRANSACTION: dict[str, Callable[[Session, Stand], object]] = {
    "job.vectorize": lambda session, stand: start_vectorization(session, stand.project.id),
    "job.analyze": lambda session, stand: start_analysis(session, stand.project.id, AnalysisOptions()),
    "job.delete": lambda session, stand: delete_job(session, stand.job_id),
    "project.create": lambda session, _: ensure_project(session, "another"),
    "guidelines.set": lambda session, stand: set_guidelines(
        session, stand.project.id, stand.pdf, file_name="g.pdf"
    ),
    "setting.set": lambda session, _: write_setting(session, "llm_model", "chatter"),
    "token.create": lambda session, _: make_token(session, email=BOB, name="x"),
    "token.revoke": lambda session, stand: revoke_token(session, stand.token_id),
    "user.create": lambda session, _: create_user(session, "new@example.com", UserRole.USER),
    "user.role": lambda session, _: change_role(session, BOB, UserRole.USER),
    "user.delete": lambda session, _: delete_user(session, BOB),
    "window.create": lambda session, _: _window(session),
    "window.change": lambda session, stand: update_window(session, stand.window_id, name="new"),
    "window.delete": lambda session, stand: delete_window(session, stand.window_id),
}


@pytest.mark.parametrize("action", IN_TRANSACTION)
def test_an_act_is_one_row_that_is_there_if_the_act_is(stand: Stand, action: str) -> None:
    before = acts(stand.session)
    with suppress(ZeroDivisionError), acting(ANN, ANN_ID), transaction() as session:
        IN_TRANSACTION[action](session, stand)
        raise ZeroDivisionError
    assert acts(stand.session) == before
    with acting(ANN, ANN_ID), transaction() as session:
        IN_TRANSACTION[action](session, stand)
    made, *rest = acts(stand.session)
    assert rest == before
    assert (made.action, made.actor, made.actor_id) == (action, ANN, ANN_ID)


def test_cancelling_and_retrying_a_job_is_one_row_each(stand: Stand) -> None:
    with transaction() as session:
        job_id = start_analysis(session, stand.project.id, AnalysisOptions()).job_id
    before = acts(stand.session)
    for act in (cancel_job, retry_job):
        with suppress(ZeroDivisionError), transaction() as session:
            act(session, job_id)
            raise ZeroDivisionError
        assert acts(stand.session)[0] == before[0]
        with transaction() as session:
            act(session, job_id[:20])
        made, *rest = acts(stand.session)
        assert rest == before
        assert (made.thing_id, made.project_id) == (job_id, stand.project.id)
        before = [made, *rest]
    assert [act.action for act in before[:2]] == ["job.retry", "job.cancel"]


def test_a_submission_is_one_row_without_what_the_file_holds(stand: Stand) -> None:
    before = acts(stand.session)
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    with acting(ANN, ANN_ID):
        job = submit_csv(
            stand.project.id, io.BytesIO(CSV.encode()), file_name="a.csv", options=options, force=True
        )
    (made,) = acts(stand.session)[: -len(before)]
    assert (made.action, made.actor, made.thing_id, made.project_id) == (
        "job.submit",
        ANN,
        job.job_id,
        stand.project.id,
    )
    assert made.details.keys() == {"type", "file_name", "size_bytes", "sha256"}


def test_of_a_url_only_the_host_and_the_name_are_written_down(stand: Stand) -> None:
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    submit_url(stand.project.id, "https://example.com:8443/x/batch.json?key=s3cr3t", options=options)
    made = acts(stand.session)[0]
    assert made.details == {"type": "TASK", "file_name": "batch.json", "host": "example.com"}


def _same_bytes(stand: Stand) -> None:
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    submit_csv(stand.project.id, io.BytesIO(CSV.encode()), file_name="a.csv", options=options)


REFUSED: dict[str, Callable[[Stand], object]] = {
    "the same bytes": _same_bytes,
    "an address that is none": lambda stand: submit_url(
        stand.project.id, "ftp://x", options=IngestOptions(record_type=RecordType.TASK)
    ),
    "a cancelled end": lambda stand: stand.in_transaction(lambda session: cancel_job(session, stand.job_id)),
    "a retried success": lambda stand: stand.in_transaction(lambda session: retry_job(session, stand.job_id)),
    "no job": lambda stand: stand.in_transaction(lambda session: delete_job(session, "nobody")),
    "no project": lambda stand: stand.in_transaction(lambda session: ensure_project(session, " ")),
    "no PDF": lambda stand: stand.in_transaction(
        lambda session: set_guidelines(session, stand.project.id, b"x", file_name="x")
    ),
    "no setting": lambda stand: stand.in_transaction(lambda session: write_setting(session, "x", "y")),
    "a setting's value": lambda stand: stand.in_transaction(
        lambda session: write_setting(session, "ai_host", "nowhere")
    ),
    "nobody's token": lambda stand: stand.in_transaction(
        lambda session: make_token(session, email="nobody@example.com", name="t")
    ),
    "no token": lambda stand: stand.in_transaction(lambda session: revoke_token(session, "x")),
    "a second user": lambda stand: stand.in_transaction(lambda session: create_user(session, ANN)),
    "nobody's role": lambda stand: stand.in_transaction(
        lambda session: change_role(session, "nobody@example.com", UserRole.USER)
    ),
    "a window": lambda stand: stand.in_transaction(lambda session: _window(session, end_time=START)),
    "a window's change": lambda stand: stand.in_transaction(
        lambda session: update_window(session, stand.window_id, end_time=START)
    ),
    "no window": lambda stand: stand.in_transaction(lambda session: delete_window(session, uuid4())),
    "no record": lambda _: align_record("nobody"),
    "no feedback": lambda stand: analyze_trends(stand.project.id, RecordType.FEEDBACK),
    "no embeddings": lambda _: build_indexes(get_engine()),
}


@pytest.mark.parametrize("act", REFUSED)
def test_what_is_refused_leaves_no_row(stand: Stand, act: str) -> None:
    before = acts(stand.session)
    with pytest.raises(PipelineError):
        REFUSED[act](stand)
    assert acts(stand.session) == before


def test_what_changes_nothing_leaves_no_row(stand: Stand) -> None:
    with transaction() as session:
        revoke_token(session, stand.token_id)
        delete_job(session, stand.job_id)
    before = acts(stand.session)
    with transaction() as session:
        ensure_project(session, stand.project.name)
        revoke_token(session, stand.token_id)
        delete_job(session, stand.job_id)
        change_role(session, ANN, UserRole.ADMIN)
    assert acts(stand.session) == before


def test_trends_and_a_record_that_is_analyzed_are_one_row_each_and_what_is_kept_is_none(
    stand: Stand, use_ai_server: AiServer
) -> None:
    write_setting(stand.session, "ai_provider", "local")
    stand.session.commit()
    assert use_ai_server
    record_id = stand.session.scalar(text("SELECT min(id) FROM data_records"))
    before = acts(stand.session)
    with acting(ANN, ANN_ID):
        analyze_trends(stand.project.id, RecordType.TASK)
        align_record(str(record_id))
        align_record(str(record_id))
    aligned, trends, *rest = acts(stand.session)
    assert rest == before
    assert (aligned.action, aligned.thing_id, aligned.actor) == ("record.align", record_id, ANN)
    assert (trends.action, trends.thing_id, trends.actor) == ("trends.make", stand.project.id, ANN)
    assert aligned.project_id == trends.project_id == stand.project.id


def test_indexes_that_are_made_and_dropped_are_one_row_each(
    stand: Stand, run_all: Callable[[Any], int]
) -> None:
    with transaction() as session:
        start = start_vectorization(session, stand.project.id)
    run_all(start)
    before = acts(stand.session)
    build_indexes(get_engine())
    names = drop_indexes(get_engine())
    dropped, made, *rest = acts(stand.session)
    assert rest == before
    assert [(act.action, act.details) for act in (made, dropped)] == [
        ("index.make", {"names": names}),
        ("index.drop", {"names": names}),
    ]
    assert drop_indexes(get_engine()) == []
    assert len(acts(stand.session)) == len(before) + 2


@pytest.mark.parametrize("key", ["openrouter_key", "ai_key", "embedding_key"])
def test_of_a_secret_nothing_is_written_down_but_that_it_was_set(session: Session, key: str) -> None:
    write_setting(session, key, "sk-very-secret")
    write_setting(session, key, "sk-other-secret")
    session.commit()
    assert [(act.thing_id, act.details) for act in acts(session)] == [(key, {})] * 2
    everything = str(session.execute(text("SELECT * FROM audit_log")).all())
    stored = str(session.scalar(text("SELECT value FROM system_settings")))
    assert "secret" not in everything
    assert stored not in everything


def test_of_other_settings_the_old_and_the_new_value_are_written_down(session: Session) -> None:
    session.execute(
        text("INSERT INTO system_settings (key, value) VALUES ('ai_host', 'http://me:s3cr3t@host/v1')")
    )
    for host in ("http://a/v1", "http://b/v1"):
        write_setting(session, "ai_host", host)
    session.commit()
    assert [act.details for act in acts(session)] == [
        {"old": "http://a/v1", "new": "http://b/v1"},
        {"old": "http://***@host/v1", "new": "http://a/v1"},
    ]


def test_a_token_is_not_written_down(session: Session) -> None:
    create_user(session, ANN, UserRole.USER)
    made = make_token(session, email=ANN, name="ci", expires_in=timedelta(days=1))
    session.commit()
    found = acts(session)[0]
    assert found.thing_id == made.id
    assert found.details.keys() == {"user", "name", "expires_at"}
    assert made.token.removeprefix("otk_")[:8] not in str(acts(session))


def test_an_analysis_that_the_pipeline_starts_is_done_by_the_system(
    session: Session, guided: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    # Where somebody waits for the job, the chain goes on in that person's own process.
    with acting("cli:ann"):
        submission = submit(CSV, analyze=True)
        run_all(submission)
        with transaction() as own:
            start_due_analyses(own)
    started = acts(session)[0]
    assert (started.action, started.actor) == ("job.analyze", SYSTEM)
    assert started.details["follows"] == submission.job_id
    assert started.project_id == guided.id


def test_who_is_acting_is_known_by_thread_and_ends_with_the_block(session: Session) -> None:
    def act() -> None:
        with transaction() as own:
            note(own, "x", "thing", "2")

    with suppress(ZeroDivisionError), acting(ANN), acting(BOB, ANN_ID):
        note(session, "x", "thing", "1")
        with ThreadPoolExecutor(1) as threads:
            threads.submit(act).result()
        raise ZeroDivisionError
    note(session, "x", "thing", "3")
    session.commit()
    found = {act.thing_id: (act.actor, act.actor_id) for act in acts(session)}
    assert found == {"1": (BOB, ANN_ID), "2": (SYSTEM, None), "3": (SYSTEM, None)}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_log SET actor = 'somebody'",
        "UPDATE audit_log SET actor = 'somebody' WHERE false",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "TRUNCATE projects, audit_log CASCADE",
        """INSERT INTO audit_log (id, actor, action, kind, thing_id) OVERRIDING SYSTEM VALUE
        SELECT id, 'x', 'x', 'x', 'x' FROM audit_log ON CONFLICT (id) DO UPDATE SET actor = 'x'""",
    ],
)
def test_what_is_written_down_stays_as_it_is(session: Session, change: str) -> None:
    ensure_project(session, "demo")
    session.commit()
    before = acts(session)
    with pytest.raises(
        DBAPIError, match=r"the audit log is only added to: (UPDATE|DELETE|TRUNCATE) is refused"
    ):
        session.execute(text(change))
    assert acts(session) == before != []


def test_acts_outlive_the_project_and_the_user(session: Session) -> None:
    user = create_user(session, ANN, UserRole.USER)
    with acting(ANN, user.id):
        project = ensure_project(session, "demo")
    delete_user(session, user.id)
    session.execute(text("DELETE FROM projects"))
    session.commit()
    (made,) = list_acts(session, project_id=project.id).acts
    assert (made.actor, made.actor_id, made.details) == (ANN, user.id, {"name": "demo"})


def test_acts_are_listed_newest_first_page_by_page_also_while_others_come(session: Session) -> None:
    for number in range(7):
        with acting(ANN if number % 2 else BOB):
            note(session, "even" if number % 4 == 0 else "odd", "thing", str(number), f"p{number % 3}")
    found: list[str] = []
    cursor = None
    while True:
        page = list_acts(session, limit=3, cursor=cursor)
        found += [act.thing_id for act in page.acts]
        cursor = page.next_cursor
        if cursor is None:
            break
        note(session, "late", "thing", "late")
    assert found == ["6", "5", "4", "3", "2", "1", "0"]

    def listed(**wanted: str) -> list[str]:
        return [act.thing_id for act in list_acts(session, **wanted).acts if act.thing_id != "late"]  # type: ignore[arg-type]

    assert listed(actor=ANN) == ["5", "3", "1"]
    assert listed(project_id="p1") == ["4", "1"]
    assert listed(thing_id="2") == ["2"]
    assert listed(action="even") == ["4", "0"]
    assert listed(actor=ANN, project_id="p2") == ["5"]
    assert listed(actor="nobody") == []


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "١", "9" * 19, "9" * 5_000])  # noqa: RUF001 - a digit that is none of ours
def test_a_cursor_that_is_none_is_refused(session: Session, cursor: str) -> None:
    with pytest.raises(InputError, match="the cursor is none"):
        list_acts(session, cursor=cursor)


def test_the_time_is_that_of_the_act(session: Session) -> None:
    note(session, "x", "thing", "1")
    session.execute(text("SELECT pg_sleep(0.05)"))
    note(session, "x", "thing", "2")
    second, first = list_acts(session).acts
    assert second.at - first.at >= timedelta(seconds=0.05)
