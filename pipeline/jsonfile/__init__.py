"""Reading a batch in JSON: an array of objects, JSON Lines, or one object.

A batch is turned once, streamed, into lines of rows in storage (`RowLines`), which also says where its chunks
are; a chunk of such lines is then read again as rows. What a row means is none of this package's business:
see `pipeline.ingest.rows`.
"""

from pipeline.jsonfile.rows import JsonRow, RowLines, read_rows

__all__ = ["JsonRow", "RowLines", "read_rows"]
