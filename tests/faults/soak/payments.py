"""What the models were paid for, and what was kept of it: each result that is committed is noted."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.enums import Stage
from tests.faults.faults import Cost
from tests.faults.installation import Installation
from tests.faults.job import BATCH, CALLS_A_CHUNK
from tests.faults.soak.models import CountingServer

_WATCH = """
    CREATE TABLE kept_results (kind text);
    CREATE FUNCTION note_kept_result() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO kept_results VALUES (TG_ARGV[0]);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_kept_result AFTER INSERT OR UPDATE ON alignments
        FOR EACH ROW EXECUTE FUNCTION note_kept_result('answer');
    CREATE TRIGGER note_kept_result AFTER INSERT OR UPDATE ON likert_scores
        FOR EACH ROW EXECUTE FUNCTION note_kept_result('answer');
    CREATE TRIGGER note_kept_result AFTER UPDATE OF embedding ON data_records
        FOR EACH ROW WHEN (cardinality(NEW.embedding) > 0) EXECUTE FUNCTION note_kept_result('embedding');
"""
_UNWATCH = "DROP FUNCTION note_kept_result CASCADE; DROP TABLE kept_results"
_COUNT = "SELECT kind, count(*) FROM kept_results GROUP BY kind"


@dataclass(frozen=True)
class Payments:
    """Texts and questions that were paid for, what was kept, and how many may be lost."""

    texts: int
    embeddings: int
    questions: int
    answers: int
    lost_texts_allowed: int
    lost_questions_allowed: int

    @property
    def lost_texts(self) -> int:
        """Texts whose embedding nobody has stored."""
        return max(0, self.texts - self.embeddings)

    @property
    def lost_questions(self) -> int:
        """Questions whose answer nobody has stored."""
        return max(0, self.questions - self.answers)

    def broken(self) -> list[str]:
        """Say where more was lost than the faults and deletions explain."""
        pairs = (
            ("texts", self.lost_texts, self.lost_texts_allowed),
            ("questions", self.lost_questions, self.lost_questions_allowed),
        )
        return [
            f"{lost} {what} were paid for twice, and {allowed} may be"
            for what, lost, allowed in pairs
            if lost > allowed
        ]


def watch_results(installation: Installation) -> None:
    """Have the database note every result that is committed, from now on."""
    with installation.connect() as connection:
        connection.execute(_WATCH)


def read_payments(
    installation: Installation, server: CountingServer, cost: Cost, interrupted: Mapping[str, int]
) -> Payments:
    """Hold what was paid for against what was kept, and have no more noted.

    Args:
        installation: whose results were watched.
        server: counts what it was asked.
        cost: of the faults.
        interrupted: chunks by stage that people may have interrupted.
    """
    with installation.connect() as connection:
        kept = {str(kind): int(str(count)) for kind, count in connection.execute(_COUNT).fetchall()}
        connection.execute(_UNWATCH)
    vectorize, analyze = (cost.chunks + interrupted[stage] for stage in (Stage.VECTORIZE, Stage.ANALYZE))
    return Payments(
        texts=server.embedded,
        embeddings=kept.get("embedding", 0),
        questions=server.asked,
        answers=kept.get("answer", 0),
        lost_texts_allowed=(vectorize * CALLS_A_CHUNK + cost.calls) * BATCH,
        # A record may be asked about twice: for its alignment and its rating.
        lost_questions_allowed=2 * analyze * BATCH + cost.calls,
    )
