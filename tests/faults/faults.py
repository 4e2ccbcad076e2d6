"""What is done to an installation while it works, and what may be paid for twice because of it."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from sqlalchemy import text

from pipeline.database import get_engine
from pipeline.ledger import ChunkRef
from pipeline.settings import get_settings
from schemas.enums import Stage
from tasks import publish
from tests.faults.installation import Installation

_POOLS = ("worker-ingest", "worker-ai")
# A status of PostgreSQL's: no space left on the device.
_DISK_FULL = "53100"


@dataclass(frozen=True)
class Cost:
    """What may be paid for twice: the calls of whole chunks, and single calls that got no answer."""

    chunks: int = 0
    calls: int = 0


Fault = Callable[[Installation, Random], Cost]


def kill_child(installation: Installation, rng: Random) -> Cost:
    """Kill a pool process of a worker, as a lack of memory does."""
    rng.choice(installation.children(rng.choice(_POOLS))).kill()
    return Cost(chunks=1)


def kill_worker(installation: Installation, rng: Random) -> Cost:
    """Kill a worker with all its processes, as a power cut does."""
    family = installation.family(rng.choice(_POOLS))
    for process in family:
        process.kill()
    return Cost(chunks=len(family) - 1)


def kill_parent(installation: Installation, rng: Random) -> Cost:
    """Kill the main process of a worker; its children notice by themselves."""
    family = installation.family(rng.choice(_POOLS))
    family[0].kill()
    return Cost(chunks=len(family) - 1)


def kill_beat(installation: Installation, _rng: Random) -> Cost:
    """Kill beat."""
    installation.wait_until_runs("beat").kill()
    return Cost()


def kill_api(installation: Installation, _rng: Random) -> Cost:
    """Kill the web server with its workers."""
    for process in installation.family("web"):
        process.kill()
    return Cost()


def stop_worker(installation: Installation, rng: Random) -> Cost:
    """Ask a worker to stop: it ends what it has begun, or puts it back."""
    name = rng.choice(_POOLS)
    installation.wait_until_runs(name).send_signal(signal.SIGTERM)
    return Cost()


def freeze_child(installation: Installation, rng: Random) -> Cost:
    """Let a pool process stand still for longer than its lease, and go on with what it had."""
    process = rng.choice(installation.children(rng.choice(_POOLS)))
    process.suspend()
    time.sleep(get_settings().lease_seconds + 1.5)
    process.resume()
    return Cost(chunks=1)


def empty_broker(installation: Installation, _rng: Random) -> Cost:
    """Lose every message."""
    installation.broker.empty()
    return Cost()


def restart_broker(installation: Installation, _rng: Random) -> Cost:
    """Have the broker end and start again."""
    installation.broker.server.process().terminate()
    return Cost()


def kill_broker(installation: Installation, _rng: Random) -> Cost:
    """Kill the broker; it starts again with what it had written."""
    installation.broker.server.process().kill()
    return Cost()


def stop_broker(installation: Installation, _rng: Random) -> Cost:
    """Have no broker for a while."""
    server = installation.broker.server.process()
    with installation.broker.server.without_guard():
        server.kill()
        time.sleep(installation.outage_seconds)
    return Cost()


def freeze_broker(installation: Installation, _rng: Random) -> Cost:
    """Let the broker stand still for a while: connections stay, and nothing answers."""
    server = installation.broker.server.process()
    server.suspend()
    time.sleep(installation.outage_seconds)
    server.resume()
    return Cost()


def restart_database(installation: Installation, _rng: Random) -> Cost:
    """Restart PostgreSQL fast: connections are ended, and it shuts down in order."""
    installation.database.process().send_signal(signal.SIGINT)
    return Cost()


def crash_database(installation: Installation, _rng: Random) -> Cost:
    """Restart PostgreSQL immediately: it recovers from its log."""
    installation.database.process().send_signal(signal.SIGQUIT)
    return Cost()


def stop_database(installation: Installation, _rng: Random) -> Cost:
    """Have no PostgreSQL for longer than a lease."""
    server = installation.database.process()
    with installation.database.without_guard():
        server.send_signal(signal.SIGQUIT)
        time.sleep(max(installation.outage_seconds, 2 * get_settings().lease_seconds))
    return Cost()


def cut_connections(installation: Installation, _rng: Random) -> Cost:
    """End every connection of the database, three times."""
    for _ in range(3):
        with installation.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'opspipe' AND pid <> pg_backend_pid()"
            )
        time.sleep(0.3)
    return Cost()


def fill_disk(installation: Installation, rng: Random) -> Cost:
    """Have PostgreSQL refuse one chunk's writes because its disk is full."""
    table, event = rng.choice(
        (("data_records", "INSERT"), ("data_records", "UPDATE"), ("alignments", "INSERT"))
    )
    with installation.connect() as connection:
        connection.execute(
            f"""
            CREATE SEQUENCE disk_full;
            CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                -- A sequence is not rolled back: the second try finds room.
                IF nextval('disk_full') <= 1 THEN
                    RAISE EXCEPTION 'could not extend file: No space left on device'
                    USING ERRCODE = '{_DISK_FULL}';
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER disk_is_full AFTER {event} ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION disk_is_full();
            """
        )

    def free() -> None:
        with installation.connect() as connection:
            connection.execute("DROP FUNCTION disk_is_full CASCADE; DROP SEQUENCE disk_full")

    installation.at_end(free)
    return Cost(chunks=1)


def lose_storage(_installation: Installation, _rng: Random) -> Cost:
    """Have the folder of the uploads away for a moment, as a share that is not mounted."""
    folder = get_settings().uploads_folder
    away = folder.with_name("uploads-away")
    folder.rename(away)
    time.sleep(1.0)
    away.rename(folder)
    return Cost()


def stop_ai_server(installation: Installation, _rng: Random) -> Cost:
    """Have no server of models for a while."""
    installation.ai_server.stop()
    time.sleep(1.0)
    installation.ai_server.restart()
    # What was under way, and in each process a call that asks whether the server is well.
    return Cost(calls=get_settings().ai_concurrency + get_settings().ai_processes)


def double_messages(installation: Installation, rng: Random) -> Cost:
    """Deliver every message twice, the second time at once or later than the lease."""
    _repeat_messages(installation, lambda: rng.choice((0.0, 0.1, get_settings().lease_seconds + 1.0)))
    return Cost()


# Of what has ended in this moment too: it may have ended before it was looked at. Not of all there ever was.
_PUBLISHED = text("""
    SELECT job_id, stage, number, publications FROM work_chunks
    WHERE publications > 0 AND (ended_at IS NULL OR ended_at > now() - interval '2 s')
""")


def _repeat_messages(installation: Installation, delay: Callable[[], float]) -> None:
    """Publish what was published, once more, until the end of the test."""
    over, seen = threading.Event(), set[tuple[object, ...]]()
    due: list[tuple[float, ChunkRef]] = []

    def look() -> None:
        with get_engine().connect() as connection:
            rows = connection.execute(_PUBLISHED).all()
        for row in rows:
            if tuple(row) not in seen:
                seen.add(tuple(row))
                due.append((time.monotonic() + delay(), ChunkRef(row[0], Stage(row[1]), row[2])))
        now = [entry for entry in due if entry[0] <= time.monotonic()]
        for entry in now:
            due.remove(entry)
        publish([ref for _, ref in now])

    def work() -> None:
        while not over.wait(0.02):
            look()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def stop() -> None:
        over.set()
        thread.join()
        assert seen, "no message was doubled"

    installation.at_end(stop)


# What happens at a moment of the job's life, and what does from its beginning on.
SUDDEN: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_child,
        kill_worker,
        kill_parent,
        kill_beat,
        kill_api,
        stop_worker,
        freeze_child,
        empty_broker,
        restart_broker,
        kill_broker,
        stop_broker,
        freeze_broker,
        restart_database,
        crash_database,
        stop_database,
        cut_connections,
        lose_storage,
        stop_ai_server,
    )
}
FROM_THE_START: Mapping[str, Fault] = {fault.__name__: fault for fault in (double_messages, fill_disk)}
