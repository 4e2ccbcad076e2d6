"""pgvector, where the database has it: comparing by the cast of the column, and an index on that cast."""

from dataclasses import dataclass

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from pipeline.ai import Vectors
from pipeline.errors import InputError
from schemas.own import EmbeddingSpace

# What pgvector's type takes, and what its indexes take.
_MOST_DIMENSIONS, _MOST_INDEXED = 16_000, 2_000
_INDEX = "idx_record_embedding_"

_FIND = text(
    "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace AS space "
    "ON space.oid = extnamespace WHERE extname = 'vector'"
)


@dataclass(frozen=True)
class Pgvector:
    """The extension, in the schema where it is installed, for vectors of some length."""

    schema: str
    dimensions: int

    def distance(self, query: str) -> str:
        """Give the SQL of the cosine distance of `record.embedding` to a vector that is a text parameter."""
        return (
            f"{self.cast('record.embedding')} OPERATOR({self.schema}.<=>) "
            f"CAST({query} AS {self.schema}.vector({self.dimensions}))"
        )

    def cast(self, column: str) -> str:
        """Give the SQL of a column as a vector: the expression that the index is made of."""
        return f"CAST({column} AS {self.schema}.vector({self.dimensions}))"

    @staticmethod
    def write(vector: Vectors) -> str:
        """Write a vector as the text that pgvector reads."""
        return "[" + ",".join(map(repr, vector.tolist())) + "]"


def find_pgvector(session: Session, *, dimensions: int) -> Pgvector | None:
    """Give pgvector for vectors of this length; None where the database has none."""
    schema = session.scalar(_FIND)
    return Pgvector(schema, dimensions) if schema and dimensions <= _MOST_DIMENSIONS else None


def build_indexes(engine: Engine) -> list[str]:
    """Make an index for each length of embeddings that projects have; gives their names.

    Raises:
        InputError: there are no embeddings, the database has no pgvector, or as `build_index`.
    """
    with Session(engine) as session:
        lengths = session.scalars(
            select(EmbeddingSpace.dimensions).where(EmbeddingSpace.dimensions.is_not(None)).distinct()
        ).all()
        found = [find_pgvector(session, dimensions=length) for length in lengths if length]
    if not found:
        raise InputError("no project has embeddings yet: there is nothing to index")
    if None in found:
        raise InputError("the database has no pgvector: nearest records are found without an index")
    return [build_index(engine, pgvector) for pgvector in found if pgvector is not None]


def build_index(engine: Engine, pgvector: Pgvector) -> str:
    """Make the index on the cast of the column for embeddings of one length; others may write meanwhile.

    All vectors are in one list, so that a search by it misses none.

    Returns:
        The index's name.

    Raises:
        InputError: pgvector has no index for so many dimensions.
    """
    if pgvector.dimensions > _MOST_INDEXED:
        raise InputError(
            f"the embeddings have {pgvector.dimensions} dimensions and pgvector indexes {_MOST_INDEXED} at "
            "most: nearest records are found without an index"
        )
    name = f"{_INDEX}{pgvector.dimensions}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # What an interrupted CREATE INDEX CONCURRENTLY leaves is not valid and would only cost.
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
        connection.execute(
            text(
                f"CREATE INDEX CONCURRENTLY {name} ON data_records "
                f"USING ivfflat (({pgvector.cast('embedding')}) {pgvector.schema}.vector_cosine_ops) "
                f"WITH (lists = 1) WHERE cardinality(embedding) = {pgvector.dimensions}"
            )
        )
    return name


def drop_indexes(engine: Engine) -> list[str]:
    """Take away the indexes that `build_index` made; gives their names."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        names = list(
            connection.scalars(
                text(
                    "SELECT indexname FROM pg_indexes WHERE tablename = 'data_records' "
                    "AND indexname LIKE :names"
                ),
                {"names": _INDEX.replace("_", r"\_") + "%"},
            )
        )
        for name in names:
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
    return names
