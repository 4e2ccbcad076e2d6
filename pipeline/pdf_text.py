"""The text of a PDF, read in a process of its own: `python -m pipeline.pdf_text < FILE` answers with JSON.

pdfium is not thread-safe and reads files that strangers made, so it has no place in a worker: here it has a
time limit and a memory limit, and its crash is an answer like another.
"""

import json
import re
import resource
import subprocess
import sys

import pypdfium2

from pipeline.errors import InputError

_MAX_BYTES = 50 * 1024 * 1024
_MEMORY_BYTES = 2 * 1024**3
_PASSWORD_ERROR = 4
# pdfium writes U+0002 for a hyphen at a line's end.
_HYPHENATED = re.compile("\x02\n?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


def read_pdf_text(pdf: bytes, *, timeout_seconds: float = 60.0) -> str:
    """Give the text of all pages, a blank line between two.

    Args:
        pdf: the file.
        timeout_seconds: how long the reading may take.

    Raises:
        InputError: it is no PDF, is encrypted, damaged, too large, takes too long, or has no text (a scan).
    """
    if len(pdf) > _MAX_BYTES:
        raise InputError(f"the PDF has {len(pdf):,} bytes: at most {_MAX_BYTES:,} are read")
    if b"%PDF-" not in pdf[:1024]:
        raise InputError("the file is not a PDF: it does not begin with %PDF-")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.pdf_text"],
            input=pdf,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"reading the PDF took more than {timeout_seconds:.0f} s: save it anew and retry"
        ) from None
    if done.returncode != 0:
        raise InputError("the PDF reader crashed on this file: save it anew and retry")
    answer: dict[str, str] = json.loads(done.stdout)
    if "error" in answer:
        raise InputError(answer["error"])
    if not answer["text"].strip():
        raise InputError("the PDF has no text, only pictures: run it through a text recognition (OCR) first")
    return answer["text"]


def clean_text(text: str) -> str:
    """Undo what pdfium does to text: CRLF, marks of hyphens at line ends, control characters."""
    return _CONTROL.sub("", _HYPHENATED.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def _limit_memory() -> None:
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def _extract(pdf: bytes) -> dict[str, str]:
    try:
        document = pypdfium2.PdfDocument(pdf)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD_ERROR:
            return {"error": "the PDF is encrypted: remove its password first"}
        return {"error": "the PDF is damaged or incomplete: save it anew and retry"}
    try:
        pages = [page.get_textpage().get_text_range() for page in document]
    except pypdfium2.PdfiumError:
        return {"error": "a page of the PDF is damaged: save it anew and retry"}
    return {"text": "\n\n".join(clean_text(page) for page in pages)}


if __name__ == "__main__":
    _limit_memory()
    json.dump(_extract(sys.stdin.buffer.read()), sys.stdout)
