"""A dry run of a load: what would become of each row of a file. No database, no server, nothing stored."""

from collections.abc import Callable
from dataclasses import dataclass, field
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from pipeline.csvfile import FilePlan, Utf8Reader, inspect_head, needs_transcoding, plan_file, read_chunk
from pipeline.ingest.identity import digest_identity
from pipeline.ingest.rows import Record, RowReader, row_options
from pipeline.settings import get_settings
from schemas.enums import RecordType, SkipReason
from schemas.options import IngestOptions

# Of each reason, how many lines are named.
_EXAMPLES = 5
# English prose has about this many characters a token in the tokenizers in use.
_CHARACTERS_A_TOKEN = 4
# Half of an identity's digest is enough to tell those of one file apart.
_DIGEST_BYTES = 8
NO_CATEGORY = "none"


@dataclass
class CheckReport:
    """What a load of the file would do, as far as the file alone tells.

    `columns` names, for each type that occurs, the columns that a value is looked for in, first match first.
    `skipped_lines` names the first lines (from 1) that are skipped for each reason. `Duplicate ID` counts
    those within the file: what the project has already is not known here.
    """

    encoding: str
    delimiter: str
    header: tuple[str, ...]
    total_records: int
    chunk_count: int
    columns: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_lines: dict[str, list[int]] = field(default_factory=dict)
    saved_records: int = 0
    content_characters: int = 0

    @property
    def estimated_tokens(self) -> int:
        """About how many tokens the contents have that would be embedded."""
        return -(-self.content_characters // _CHARACTERS_A_TOKEN)


def check_file(
    source: BinaryIO, options: IngestOptions, *, on_progress: Callable[[float], None] | None = None
) -> CheckReport:
    """Read a file as a load would and count what would become of its rows.

    Args:
        source: the file's bytes in any encoding, at its start; seekable.
        options: as for a submission.
        on_progress: called with the share of the work done, from 0 to 1.

    Raises:
        InputError: the file would be refused; see `pipeline.csvfile`.
    """
    head = inspect_head(source, delimiter=options.delimiter, encoding=options.encoding)
    source.seek(0)
    if not needs_transcoding(head.encoding):
        return _check(source, options, None, on_progress)
    with TemporaryFile() as text:
        copyfileobj(Utf8Reader(source, head.encoding), text)
        text.seek(0)
        return _check(cast("BinaryIO", text), options, head.encoding, on_progress)


def _check(
    source: BinaryIO,
    options: IngestOptions,
    transcoded_from: str | None,
    on_progress: Callable[[float], None] | None,
) -> CheckReport:
    settings = get_settings()
    plan = plan_file(
        source,
        chunk_rows=settings.chunk_rows,
        chunk_bytes=settings.chunk_bytes,
        max_record_bytes=settings.max_record_bytes,
        delimiter=options.delimiter,
        encoding=options.encoding,
        transcoded_from=transcoded_from,
    )
    check = _Check(plan, options)
    for number, chunk in enumerate(plan.chunks, start=1):
        source.seek(chunk.start)
        check.read(source.read(chunk.end - chunk.start), first_line=chunk.first_line)
        if on_progress:
            on_progress(number / len(plan.chunks))
    return check.report()


class _Check:
    """The counts so far."""

    def __init__(self, plan: FilePlan, options: IngestOptions) -> None:
        self._reader = RowReader(plan.header, row_options(options))
        self._job_type, self._delimiter = options.record_type, plan.delimiter
        self._report = CheckReport(
            encoding=plan.encoding,
            delimiter=plan.delimiter,
            header=plan.header,
            total_records=plan.total_records,
            chunk_count=len(plan.chunks),
        )
        # The one thing here that grows with the file: about 100 bytes a record with an identity.
        self._identities: set[int] = set()

    def read(self, data: bytes, *, first_line: int) -> None:
        for line, fields in read_chunk(data, first_line=first_line, delimiter=self._delimiter):
            outcome = self._reader.read(fields)
            if isinstance(outcome, Record) and self._is_duplicate(outcome):
                outcome = SkipReason.DUPLICATE_ID
            if isinstance(outcome, Record):
                self._count(outcome)
            else:
                self._skip(outcome, line)

    def _is_duplicate(self, record: Record) -> bool:
        if record.identity is None:
            return False
        digest = int.from_bytes(digest_identity("", record.type, record.identity)[:_DIGEST_BYTES])
        is_known = digest in self._identities
        self._identities.add(digest)
        return is_known

    def _count(self, record: Record) -> None:
        report = self._report
        report.saved_records += 1
        report.types[record.type] = report.types.get(record.type, 0) + 1
        category = record.category or NO_CATEGORY
        report.categories[category] = report.categories.get(category, 0) + 1
        report.content_characters += len(record.content)

    def _skip(self, reason: SkipReason, line: int) -> None:
        report = self._report
        report.skipped[reason] = report.skipped.get(reason, 0) + 1
        lines = report.skipped_lines.setdefault(reason, [])
        if len(lines) < _EXAMPLES:
            lines.append(line)

    def report(self) -> CheckReport:
        kinds = [kind for kind in RecordType if kind in self._report.types] or [self._job_type]
        self._report.columns = {kind: self._reader.describe(kind) for kind in kinds}
        return self._report
