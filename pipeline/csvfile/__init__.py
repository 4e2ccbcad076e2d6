"""Reading a CSV file as it lies in storage: its head, its plan of chunks, and one chunk's rows.

What is read is, record for record, what `csv.reader(strict=True)` with a raised field limit reads, however
the file is split. What a row means is none of this package's business: see `pipeline.ingest.rows`.
"""

from pipeline.csvfile.chunk import Row, read_chunk
from pipeline.csvfile.head import FileHead, inspect_head
from pipeline.csvfile.header import name_columns
from pipeline.csvfile.lenient import read_leniently
from pipeline.csvfile.plain import read_fields
from pipeline.csvfile.plan import ChunkSpan, FilePlan, plan_file

__all__ = [
    "ChunkSpan",
    "FileHead",
    "FilePlan",
    "Row",
    "inspect_head",
    "name_columns",
    "plan_file",
    "read_chunk",
    "read_fields",
    "read_leniently",
]
