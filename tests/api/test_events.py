"""A job's status as Server-Sent Events: told at each change, looked at once for all, ended with the job."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.database import transaction
from pipeline.errors import NotFoundError
from pipeline.jobs import cancel_job
from pipeline.ledger import ChunkRef
from pipeline.runner import run_chunk
from pipeline.watching import Seen, TooManyError, Watch
from schemas.enums import Stage
from tests.api.client import Client


@pytest.fixture
def job_id(admin: Client, project_id: str) -> str:
    body = {"projectId": project_id, "type": "TASK", "csvData": "id,prompt\n1,a story of the sea\n"}
    return str(admin.post("/api/ingest/csv", body | {"generateEmbeddings": False}).body["jobId"])


def listen(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    request = urllib.request.Request(f"{client._base}/api/ingest/jobs/{job_id}/events")
    request.add_header("Authorization", f"Bearer {client.token}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def test_a_job_is_told_at_each_change_until_it_ends(admin: Client, job_id: str) -> None:
    events = listen(admin, job_id)
    assert next(events)["status"] == "PENDING"
    for number in range(2):
        run_chunk(ChunkRef(job_id, Stage.LOAD, number))
    rest = list(events)
    assert (rest[-1]["status"], rest[-1]["savedCount"]) == ("COMPLETED", 1)
    assert rest[-1] == admin.get(f"/api/ingest/status?jobId={job_id}").body


def test_an_ended_job_is_told_once(admin: Client, job_id: str) -> None:
    with transaction() as session:
        cancel_job(session, job_id)
    assert [event["status"] for event in listen(admin, job_id)] == ["CANCELLED"]


def test_an_unknown_job_has_no_events(admin: Client) -> None:
    assert admin.get("/api/ingest/jobs/nothing/events").status == 404


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.watching._LOOK_SECONDS", 0.1)


@pytest.mark.usefixtures("often")
def test_however_many_watch_it_is_looked_at_once() -> None:
    looks = []

    def look(_key: str) -> tuple[str, bool]:
        looks.append(time.monotonic())
        return f"state {len(looks) // 3}", len(looks) >= 9

    watch = Watch(look, most=50)
    everybody = threading.Barrier(20)

    def follow(_number: int) -> list[str]:
        found: list[str] = []
        with watch.watching("job") as watched:
            everybody.wait()
            seen: Seen | None = None
            while seen is None or not seen.is_last:
                seen = watched.wait(seen.number if seen else 0, 5.0)
                assert seen is not None
                found.append(seen.text)
        return found

    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(follow, range(20)))
    assert len(looks) == 9
    assert all(texts[-1] == "state 3" for texts in told)


@pytest.mark.usefixtures("often")
def test_what_nobody_watches_is_not_looked_at(wait: Callable[..., None]) -> None:
    looks = []
    watch = Watch(lambda _key: (str(looks.append(1)), False), most=1)
    with watch.watching("job") as watched:
        assert watched.wait(0, 5.0) is not None
        with pytest.raises(TooManyError), watch.watching("another"):
            pass
    wait(watched.is_over)
    count = len(looks)
    time.sleep(0.3)
    assert len(looks) == count


@pytest.mark.usefixtures("often")
def test_who_watches_what_goes_is_told_so(wait: Callable[..., None]) -> None:
    def look(_key: str) -> tuple[str, bool]:
        raise NotFoundError("it is gone")

    with Watch(look, most=1).watching("job") as watched:
        wait(watched.is_over)
        assert watched.wait(0, 0.0) is None
