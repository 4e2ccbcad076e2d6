"""pgvector, where the database has it: comparing by the cast of the column, and an index on that cast."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pipeline.ai import Vectors
from pipeline.audit import note
from pipeline.errors import InputError
from pipeline.similarity.stream import MOST_LENGTH
from schemas.own import EmbeddingSpace

# What pgvector's type takes, and what its indexes take.
_MOST_DIMENSIONS, _MOST_INDEXED = 16_000, 2_000
_INDEX = "idx_record_embedding_"

_FIND = text("""
    SELECT quote_ident(nspname) AS schema,
        EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:index) AND indisvalid) AS is_indexed
    FROM pg_extension JOIN pg_namespace AS space ON space.oid = extnamespace WHERE extname = 'vector'
""")
_DROP = "DROP INDEX CONCURRENTLY IF EXISTS {name}"


@dataclass(frozen=True)
class Pgvector:
    """The extension, in the schema where it is installed, for vectors of some length."""

    schema: str
    dimensions: int
    is_indexed: bool = False

    @property
    def error(self) -> float:
        """How far off a distance is at most: by the last of 32 bits for each number that is added up."""
        return (2 * self.dimensions + 4) * 2.0**-24

    @property
    def index_name(self) -> str:
        """The index on vectors of this length."""
        return f"{_INDEX}{self.dimensions}"

    def condition(self, column: str) -> str:
        """Give the SQL of which rows to look among: those of the index, else those of this length.

        The index says more of its rows, and where it is used that costs nothing.
        """
        return self.takes(column) if self.is_indexed else has_length(column, self.dimensions)

    def takes(self, column: str) -> str:
        """Give the SQL condition on arrays that pgvector takes and whose distance can be computed.

        NaN is greater than any number, and what is compared with NULL is not true.
        """
        return (
            f"{has_length(column, self.dimensions)} AND array_ndims({column}) = 1 "
            f"AND '{MOST_LENGTH}' >= ALL ({column}) AND '{-MOST_LENGTH}' <= ALL ({column})"
        )

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


@dataclass(frozen=True)
class Indexes:
    """Names of the indexes that were made, and for each that was not, why."""

    made: Sequence[str]
    not_made: Sequence[str]


def has_length(column: str, dimensions: int) -> str:
    """Give the SQL condition on arrays of so many numbers."""
    return f"cardinality({column}) = {dimensions}"


def find_pgvector(session: Session, *, dimensions: int) -> Pgvector | None:
    """Give pgvector for vectors of this length; None where the database has none."""
    row = session.execute(_FIND, {"index": f"{_INDEX}{dimensions}"}).first()
    if row is None or dimensions > _MOST_DIMENSIONS:
        return None
    return Pgvector(row.schema, dimensions, row.is_indexed)


def build_indexes(engine: Engine) -> Indexes:
    """Make an index for each length of embeddings that projects have and pgvector can index.

    Raises:
        InputError: there are no embeddings, or the database has no pgvector.
    """
    with Session(engine) as session:
        lengths = session.scalars(
            select(EmbeddingSpace.dimensions)
            .where(EmbeddingSpace.dimensions.is_not(None))
            .distinct()
            .order_by(EmbeddingSpace.dimensions)
        ).all()
        schema = session.scalar(_FIND, {"index": ""})
    if not lengths:
        raise InputError("no project has embeddings yet: there is nothing to index")
    if schema is None:
        raise InputError("the database has no pgvector: nearest records are found without an index")
    made, not_made = [], []
    for length in filter(None, lengths):
        try:
            made.append(build_index(engine, Pgvector(schema, length)))
        except InputError as error:
            not_made.append(str(error))
    _note_indexes(engine, "index.make", made)
    return Indexes(made, not_made)


def build_index(engine: Engine, pgvector: Pgvector) -> str:
    """Make the index on the cast of the column for embeddings of one length; others may write meanwhile.

    All vectors are in one list, so that a search by it misses none. An array that pgvector does not take is
    not in it: other clients can write what they like.

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
    name = pgvector.index_name
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # What an interrupted CREATE INDEX CONCURRENTLY leaves is not valid and would only cost.
        connection.execute(text(_DROP.format(name=name)))
        try:
            connection.execute(
                text(
                    f"CREATE INDEX CONCURRENTLY {name} ON data_records "
                    f"USING ivfflat (({pgvector.cast('embedding')}) {pgvector.schema}.vector_cosine_ops) "
                    f"WITH (lists = 1) WHERE {pgvector.takes('embedding')}"
                )
            )
        except DBAPIError:
            connection.execute(text(_DROP.format(name=name)))
            raise
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
            connection.execute(text(_DROP.format(name=name)))
    _note_indexes(engine, "index.drop", names)
    return names


def _note_indexes(engine: Engine, action: str, names: Sequence[str]) -> None:
    # Afterwards: an index that is made or dropped CONCURRENTLY is so outside of any transaction.
    if names:
        with Session(engine) as session, session.begin():
            note(session, action, "table", "data_records", names=list(names))
