"""Files that are no CSV at all: what they are, and what to do with them."""

import re

from pipeline.errors import InputError

_TO_CSV = "open it in a spreadsheet program, save it as CSV in UTF-8, and submit that"
_UNPACK = "unpack it and submit the CSV file"
_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls) or another Office document", _TO_CSV),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh91AY&SY", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"\x89PNG\r\n", "an image", "submit a table as CSV"),
    (b"\xff\xd8\xff", "an image", "submit a table as CSV"),
    (
        b"%PDF-",
        "a PDF",
        "submit its table as CSV; guidelines go in with `opspipe guidelines PROJECT FILE.pdf`",
    ),
)
_ZIP, _PARQUET = b"PK\x03\x04", b"PAR1"
# The first names in the archive; a longer look would read a CSV file packed in it.
_ZIP_NAME_BYTES = 2048
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_CONTROL_BYTES = 256

_NUL_SAMPLE_BYTES = 64 * 1024
# In UTF-16 of any script nearly all NULs are the same half of their characters.
_NUL_IMBALANCE = 10

# An object, or a list of them: what `POST /api/ingest/api` takes.
_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*(?:\}|"(?:[^"\\]|\\.)*"\s*:)')


def refuse_other_formats(head: bytes) -> None:
    """Refuse a file whose first bytes are those of another format.

    Raises:
        InputError: says which format and what to do.
    """
    for signature, what, advice in _SIGNATURES:
        if head.startswith(signature):
            raise InputError(f"the file is no CSV but {what}: {advice}")
    if head.startswith(_ZIP):
        raise InputError(f"the file is no CSV but {_describe_zip(head[:_ZIP_NAME_BYTES])}")
    # A column may be called PAR1, but then no control character follows.
    if head.startswith(_PARQUET) and _CONTROL.search(head, 0, _CONTROL_BYTES):
        raise InputError("the file is no CSV but Parquet: export it as CSV in UTF-8 and submit that")


def explain_refusal(error: InputError, head: bytes, *, is_encoding_known: bool) -> InputError:
    """Say more of a file that cannot be read: that it is binary, UTF-16 without a mark, or JSON.

    Args:
        error: why it was refused.
        head: the file's first bytes.
        is_encoding_known: whether a mark or the submission names the encoding, so that NULs say nothing.
    """
    sample = head[:_NUL_SAMPLE_BYTES]
    # Further down, a NUL is a fault of its row alone.
    if not is_encoding_known and b"\0" in sample.partition(b"\n")[0]:
        return _explain_nuls(sample)
    if _JSON.match(head):
        return type(error)(
            f"{error}. The file looks like JSON: put it where it can be fetched and submit its address, "
            "with `opspipe ingest URL` or `POST /api/ingest/api`"
        )
    return error


def _describe_zip(names: bytes) -> str:
    if b"[Content_Types].xml" in names or b"xl/" in names:
        return f"an Excel workbook (.xlsx) or another Office document: {_TO_CSV}"
    if b"mimetypeapplication/vnd.oasis.opendocument" in names:
        return f"an OpenDocument file (.ods): {_TO_CSV}"
    return f"a ZIP archive: {_UNPACK} in it"


def _explain_nuls(sample: bytes) -> InputError:
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if min(even, odd) * _NUL_IMBALANCE > max(even, odd):
        return InputError("the file is no CSV but binary, by its NUL bytes: export it as CSV in UTF-8")
    name = "utf-16-le" if odd > even else "utf-16-be"
    return InputError(
        "the first line holds NUL bytes, as in UTF-16 without a byte order mark: if it is that, submit the "
        f"file again with `--encoding {name}` (over HTTP the field `encoding`), otherwise remove them"
    )
