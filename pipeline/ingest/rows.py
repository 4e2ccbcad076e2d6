"""From a row of a file to a record: section 2 of the record rules.

What a row becomes depends on the row, the header and the job's options alone. Nothing here knows of chunks,
the database or duplicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from pipeline.ingest.category import read_category
from pipeline.ingest.columns import Positions, resolve_columns
from pipeline.ingest.times import parse_time
from schemas.enums import RecordCategory, RecordType, SkipReason

# A content shorter than this gives way to the longest value of the row that has more than this.
SHORT_CONTENT = 10

_TYPE_WORDS = {"feedback": RecordType.FEEDBACK, "task": RecordType.TASK, "prompt": RecordType.TASK}

Values = list[str | None]


@dataclass(frozen=True)
class RowOptions:
    """What a job says of its rows: the type of those that name none, and a mapping target -> column."""

    record_type: RecordType
    source: str
    keywords: tuple[str, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """What a row becomes. Times are UTC without zone; None stands for the time of loading.

    `metadata_json` is a JSON object of every column under its header name: strings, null where the row has
    no such field.
    """

    type: RecordType
    category: RecordCategory | None
    content: str
    metadata_json: bytes
    identity: str | None
    created_by_id: str | None
    created_by_name: str | None
    created_by_email: str | None
    created_at: datetime | None
    updated_at: datetime | None


class RowReader:
    """Reads the rows of one file under one job's options.

    Raises:
        InputError: the options' mapping names a target or a column that there is none of.
    """

    def __init__(self, header: Sequence[str], options: RowOptions) -> None:
        self._header = tuple(header)
        self._width = len(self._header)
        self._record_type = options.record_type
        self._keywords = tuple(word.strip().casefold() for word in options.keywords if word.strip())
        self._columns = resolve_columns(self._header, options.mapping)

    def read(self, fields: Sequence[str] | None) -> Record | SkipReason:
        """Turn a row into a record, or say why it becomes none.

        The first reason that holds is given, in the order of `SkipReason`.

        Args:
            fields: the row's fields as written; fewer than the header has are filled with null; None for a
                record that could not be read.
        """
        if fields is None or len(fields) > self._width:
            return SkipReason.MALFORMED
        values: Values = [value.strip() for value in fields]
        if len(values) < self._width:
            values += [None] * (self._width - len(values))
        metadata_json = self._dump(fields, values)
        if metadata_json is None:
            return SkipReason.INVALID_CHARACTERS
        kind = self._find_type(values)
        content = self._find_content(values, kind)
        if not content:
            return SkipReason.EMPTY_CONTENT
        if self._keywords and not self._has_keyword(content):
            return SkipReason.KEYWORD_MISMATCH
        return self._make_record(values, kind, content, metadata_json)

    def _dump(self, fields: Sequence[str], values: Values) -> bytes | None:
        """Give the row as JSON; None for one with a NUL or an unpaired surrogate, which cannot be stored."""
        if "\0" in "".join(fields):
            return None
        try:
            return orjson.dumps(dict(zip(self._header, values, strict=True)))
        except orjson.JSONEncodeError:  # strings that are not Unicode are the only ones it refuses
            return None

    def _find_type(self, values: Values) -> RecordType:
        columns = self._columns
        for position in columns.type_words:
            word = values[position]
            if word and (kind := _TYPE_WORDS.get(word.lower())):
                return kind
        if _first(values, columns.feedback_id) or (
            _first(values, columns.feedback_content) and _first(values, columns.task_prompt)
        ):
            return RecordType.FEEDBACK
        return self._record_type

    def _find_content(self, values: Values, kind: RecordType) -> str | None:
        """Give the content; a mapped column is it, however short, and nothing stands in for it."""
        content = _first(values, self._columns.by_type[kind].content)
        if self._columns.content_is_mapped or (content and len(content) >= SHORT_CONTENT):
            return content
        # `max` keeps the first of equals: the leftmost column.
        longest = max((values[position] or "" for position in self._columns.texts), key=len, default="")
        return longest if len(longest) > SHORT_CONTENT else content

    def _has_keyword(self, content: str) -> bool:
        folded = content.casefold()
        return any(word in folded for word in self._keywords)

    def _make_record(self, values: Values, kind: RecordType, content: str, metadata_json: bytes) -> Record:
        columns = self._columns.by_type[kind]
        rating = _first(values, self._columns.rating)
        created_at = _first(values, columns.created_at)
        updated_at = _first(values, columns.updated_at)
        return Record(
            type=kind,
            category=read_category(rating) if rating else None,
            content=content,
            metadata_json=metadata_json,
            identity=_first(values, columns.identity),
            created_by_id=_first(values, columns.created_by_id),
            created_by_name=_first(values, columns.created_by_name),
            created_by_email=_first(values, columns.created_by_email),
            created_at=parse_time(created_at) if created_at else None,
            updated_at=parse_time(updated_at) if updated_at else None,
        )


def _first(values: Values, positions: Positions) -> str | None:
    """Give the first value that is not blank."""
    for position in positions:
        value = values[position]
        if value:
            return value
    return None
