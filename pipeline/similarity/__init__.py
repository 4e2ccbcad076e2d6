"""Similar records: the nearest to a record or a text, and tasks of one person that are nearly the same."""

from pipeline.similarity.compare import compare_chunk, plan_compare
from pipeline.similarity.flags import Flag, list_flags
from pipeline.similarity.nearest import Neighbour, nearest_records, search_records
from pipeline.similarity.pgvector import build_index, build_indexes, drop_indexes, find_pgvector

__all__ = [
    "Flag",
    "Neighbour",
    "build_index",
    "build_indexes",
    "compare_chunk",
    "drop_indexes",
    "find_pgvector",
    "list_flags",
    "nearest_records",
    "plan_compare",
    "search_records",
]
