"""Files that are something else: what the refusal says, and which CSV files are none of them."""

import gzip
import io
import zipfile

import pytest

from pipeline.csvfile import inspect_head
from pipeline.errors import EmptyFileError, InputError


def zip_of(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(
                name, "application/vnd.oasis.opendocument.spreadsheet" if name == "mimetype" else "a"
            )
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zip_of("[Content_Types].xml", "xl/workbook.xml"), r"Excel workbook \(\.xlsx\).*save it as CSV"),
        (zip_of("mimetype", "content.xml"), r"OpenDocument file \(\.ods\).*save it as CSV"),
        (zip_of("rows.csv"), "a ZIP archive: unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", r"old Excel workbook \(\.xls\).*save it as CSV"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "compressed with gzip: unpack it"),
        (b"%PDF-1.7\n1 0 obj\n", "a PDF.*opspipe guidelines"),
        (b"PAR1\x15\x04\x15\x10", "Parquet: export it as CSV"),
    ],
    # Not of the data: an archive says when it was made, and test processes have to agree on names.
    ids=["xlsx", "ods", "zip", "xls", "gzip", "pdf", "parquet"],
)
@pytest.mark.parametrize("encoding", [None, "latin-1"])
def test_another_format_is_named_before_any_encoding(data: bytes, message: str, encoding: str | None) -> None:
    with pytest.raises(InputError, match=message) as caught:
        inspect_head(io.BytesIO(data), encoding=encoding)

    assert "--encoding" not in str(caught.value)


def test_a_binary_file_is_called_so_by_its_nul_bytes() -> None:
    data = b"SQLite format 3\0\x10\0\x01\x01\0@  \0\0\0\x07\0\0\0\x02\xff"

    with pytest.raises(InputError, match="no CSV but binary"):
        inspect_head(io.BytesIO(data))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'[{"prompt": "a, b", "id": 1}, {"prompt": "c"}]', EmptyFileError),
        (b'\xef\xbb\xbf{"prompt": "a"}\n', EmptyFileError),
        (b'[\n  {"prompt": "\xe9"},\n  {"prompt": "b"}\n]', InputError),
        (b"[{}]", EmptyFileError),
    ],
)
def test_json_that_cannot_be_read_as_csv_is_shown_its_way(data: bytes, error: type[InputError]) -> None:
    with pytest.raises(error, match=r"looks like JSON.*opspipe ingest URL.*POST /api/ingest/api"):
        inspect_head(io.BytesIO(data))


@pytest.mark.parametrize(
    "data",
    [
        b"PAR1,PAR2\n1,2\n",
        b"[id],{name}\n1,2\n",
        b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n',
        b"PK,b\n1,2\n",
        b"a,b\n\0\0\0\0\0\0\0\0,\0\0\0\0\0\0\0\0\n",
    ],
)
def test_a_readable_csv_is_none_of_them(data: bytes) -> None:
    assert len(inspect_head(io.BytesIO(data)).header) == 2


def test_another_refusal_is_not_taken_for_json() -> None:
    with pytest.raises(EmptyFileError) as caught:
        inspect_head(io.BytesIO(b"[id],{name}\n"))

    assert "JSON" not in str(caught.value)
