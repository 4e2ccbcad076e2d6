"""From a row of a file to a record: section 2 of the record rules.

What a row becomes depends on the row, the header and the job's options alone. Nothing here knows of chunks,
the database or duplicates.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import orjson

from pipeline.ingest.category import read_category
from pipeline.ingest.columns import Positions, resolve_columns
from pipeline.ingest.rejectfile import is_reject_header, restore_fields
from pipeline.ingest.times import parse_time
from schemas.enums import RecordCategory, RecordType, SkipReason
from schemas.options import IngestOptions

# A content shorter than this gives way to the longest value of the row that has more than this.
SHORT_CONTENT = 10

_TYPE_WORDS = {"feedback": RecordType.FEEDBACK, "task": RecordType.TASK, "prompt": RecordType.TASK}

Values = list[str | None]


@dataclass(frozen=True)
class RowOptions:
    """What a job says of its rows: the type of those that name none, and a mapping target -> column."""

    record_type: RecordType
    keywords: tuple[str, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)


def row_options(options: IngestOptions) -> RowOptions:
    """Give what a job's options say of its rows."""
    return RowOptions(record_type=options.record_type, keywords=options.keywords, mapping=options.mapping)


class Record(NamedTuple):
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

    Loads run every row through here, so that what a file has in common is decided once, at the start.

    Args:
        header: the file's column names, each of them once.
        options: the job's.
        may_hold_nul: False where it is known that no field holds a NUL, so that no field is searched for one.

    Raises:
        InputError: the options' mapping names a target or a column that there is none of.
    """

    def __init__(self, header: Sequence[str], options: RowOptions, *, may_hold_nul: bool = True) -> None:
        self._may_hold_nul = may_hold_nul
        # Rows that were rejected and corrected come with columns of ours before their own.
        self._is_reject_file = is_reject_header(header)
        self._header = tuple(restore_fields(header) if self._is_reject_file else header)
        self._width = len(self._header)
        self._record_type = options.record_type
        self._keywords = tuple(word.strip().casefold() for word in options.keywords if word.strip())
        self._columns = resolve_columns(self._header, options.mapping)
        columns = self._columns
        self._finders = {
            kind: _Finders(
                *map(
                    _make_finder,
                    (
                        columns.rating,
                        found.identity,
                        found.created_by_id,
                        found.created_by_name,
                        found.created_by_email,
                        found.created_at,
                        found.updated_at,
                    ),
                )
            )
            for kind, found in columns.by_type.items()
        }
        self._has_type_hints = bool(columns.type_words or columns.feedback_id or columns.feedback_content)

    def read(self, fields: Sequence[str] | None) -> Record | SkipReason:
        """Turn a row of text into a record, or say why it becomes none.

        The first reason that holds is given, in the order of `SkipReason`.

        Args:
            fields: the row's fields as written; fewer than the header has are filled with null; None for a
                record that could not be read.
        """
        if fields is not None and self._is_reject_file:
            fields = restore_fields(fields)
        if fields is None or len(fields) > self._width:
            return SkipReason.MALFORMED
        values: Values = list(map(str.strip, fields))
        if len(values) < self._width:
            values += [None] * (self._width - len(values))
        return self.read_values(values)

    def read_values(self, values: Values, *, not_text: Container[int] = ()) -> Record | SkipReason:
        """Turn a row's trimmed values, one a column, into a record, or say why it becomes none.

        Args:
            values: None where the row has no such value.
            not_text: positions of values that were no text where they come from: none of them is a content.
        """
        metadata_json = self._dump(values)
        if metadata_json is None:
            return SkipReason.INVALID_CHARACTERS
        kind = self._find_type(values) if self._has_type_hints else self._record_type
        texts = values
        if not_text:
            texts = [None if place in not_text else value for place, value in enumerate(values)]
        content = self._find_content(texts, kind)
        if not content:
            return SkipReason.EMPTY_CONTENT
        if self._keywords and not self._has_keyword(content):
            return SkipReason.KEYWORD_MISMATCH
        return self._make_record(values, kind, content, metadata_json)

    def describe(self, kind: RecordType) -> dict[str, list[str]]:
        """Name the columns in which a record of this type finds its values, first match first.

        Returns:
            For each target of a column mapping, names of the header; none where the file has no such column.
        """
        columns = self._columns
        found = columns.by_type[kind]
        targets = {
            "content": found.content,
            "type": columns.type_words,
            "rating": columns.rating,
            "id": found.identity,
            "createdAt": found.created_at,
            "updatedAt": found.updated_at,
            "createdById": found.created_by_id,
            "createdByName": found.created_by_name,
            "createdByEmail": found.created_by_email,
        }
        return {target: [self._header[place] for place in places] for target, places in targets.items()}

    def _dump(self, values: Values) -> bytes | None:
        """Give the row as JSON; None for one with a NUL or an unpaired surrogate, which cannot be stored."""
        if self._may_hold_nul and any(value and "\0" in value for value in values):
            return None
        try:
            return orjson.dumps(dict(zip(self._header, values)))  # noqa: B905 - as long as each other; checking costs a third of this
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
        find = self._finders[kind]
        rating, created_at, updated_at = find.rating(values), find.created_at(values), find.updated_at(values)
        return Record(
            kind,
            read_category(rating) if rating else None,
            content,
            metadata_json,
            find.identity(values),
            find.created_by_id(values),
            find.created_by_name(values),
            find.created_by_email(values),
            parse_time(created_at) if created_at else None,
            parse_time(updated_at) if updated_at else None,
        )


Finder = Callable[[Values], str | None]


class _Finders(NamedTuple):
    """For each thing a record takes from one value: a function that finds the value in a row."""

    rating: Finder
    identity: Finder
    created_by_id: Finder
    created_by_name: Finder
    created_by_email: Finder
    created_at: Finder
    updated_at: Finder


def _make_finder(positions: Positions) -> Finder:
    """Make the function that gives the first value that is not blank.

    Nearly every file has one column or none for a thing: that is decided here, and not once a row.
    """
    if not positions:
        return lambda _: None
    if len(positions) == 1:
        (position,) = positions
        return lambda values: values[position] or None
    return lambda values: _first(values, positions)


def _first(values: Values, positions: Positions) -> str | None:
    """Give the first value that is not blank."""
    for position in positions:
        value = values[position]
        if value:
            return value
    return None
