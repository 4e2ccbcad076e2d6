"""Reading a CSV file as it lies in storage: its head, its plan of chunks, and one chunk's rows.

What is read is, record for record, what `csv.reader(strict=True)` with a raised field limit reads, however
the file is split. A file in another encoding is transcoded to UTF-8 once, by `Utf8Reader`, and planned and
read in that form. What a row means is none of this package's business: see `pipeline.ingest.rows`.
"""

from pipeline.csvfile.chunk import Row, read_chunk
from pipeline.csvfile.head import FileHead, inspect_head
from pipeline.csvfile.header import name_columns
from pipeline.csvfile.lenient import read_leniently
from pipeline.csvfile.plain import read_fields
from pipeline.csvfile.plan import ChunkSpan, FilePlan, plan_file
from pipeline.csvfile.transcode import Utf8Reader, needs_transcoding

__all__ = [
    "ChunkSpan",
    "FileHead",
    "FilePlan",
    "Row",
    "Utf8Reader",
    "inspect_head",
    "name_columns",
    "needs_transcoding",
    "plan_file",
    "read_chunk",
    "read_fields",
    "read_leniently",
]
