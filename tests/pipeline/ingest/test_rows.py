"""From a row to a record, table by table: section 2 of the record rules."""

from collections.abc import Mapping
from datetime import datetime

import orjson
import pytest

from pipeline.errors import InputError
from pipeline.ingest.columns import normalize_name
from pipeline.ingest.rows import Record, RowOptions, RowReader
from schemas.enums import RecordCategory, RecordType, SkipReason

TASK, FEEDBACK = RecordType.TASK, RecordType.FEEDBACK
TOP, BOTTOM = RecordCategory.TOP_10, RecordCategory.BOTTOM_10
TEXT = "a text that is long enough"
LONGER = "a longer text, which is longer than the text"


def read(
    row: Mapping[str, str],
    *,
    job: RecordType = TASK,
    keywords: tuple[str, ...] = (),
    mapping: Mapping[str, str] | None = None,
) -> Record | SkipReason:
    options = RowOptions(record_type=job, keywords=keywords, mapping=mapping or {})
    return RowReader(list(row), options).read(list(row.values()))


def record(
    row: Mapping[str, str], *, job: RecordType = TASK, mapping: Mapping[str, str] | None = None
) -> Record:
    made = read(row, job=job, mapping=mapping)
    assert isinstance(made, Record)
    return made


# --- the row itself ---


def test_a_short_row_is_filled_with_null() -> None:
    made = RowReader(["prompt", "notes", "id"], RowOptions(TASK)).read([TEXT])

    assert isinstance(made, Record)
    assert orjson.loads(made.metadata_json) == {"prompt": TEXT, "notes": None, "id": None}
    assert made.identity is None


@pytest.mark.parametrize("fields", [None, [TEXT, "x", "y"]], ids=["unreadable", "too long"])
def test_a_malformed_row_is_skipped(fields: list[str] | None) -> None:
    reader = RowReader(["prompt", "id"], RowOptions(TASK))

    assert reader.read(fields) is SkipReason.MALFORMED


@pytest.mark.parametrize("value", ["a\0b", "\0", "\ud83d", "x\udc00y"])
def test_a_nul_or_half_a_surrogate_pair_in_any_field_is_skipped(value: str) -> None:
    assert read({"prompt": TEXT, "notes": value}) is SkipReason.INVALID_CHARACTERS


@pytest.mark.parametrize("value", ["😀", "\\u0000", "a\u2028b", "\x01", "\ufffd"])
def test_other_unusual_characters_are_kept(value: str) -> None:
    assert orjson.loads(record({"prompt": TEXT, "notes": value}).metadata_json)["notes"] == value


def test_the_first_reason_counts() -> None:
    reader = RowReader(["prompt"], RowOptions(TASK, keywords=("zebra",)))

    assert reader.read(["\0", "x"]) is SkipReason.MALFORMED
    assert reader.read(["\0"]) is SkipReason.INVALID_CHARACTERS
    assert reader.read([""]) is SkipReason.EMPTY_CONTENT
    assert reader.read(["horse"]) is SkipReason.KEYWORD_MISMATCH


def test_metadata_has_every_column_under_its_own_name_and_trimmed() -> None:
    made = record({"Prompt": f"  {TEXT}\n", "My Notes": " \u2003x ", "empty": "  "})

    assert orjson.loads(made.metadata_json) == {"Prompt": TEXT, "My Notes": "x", "empty": ""}
    assert made.content == TEXT


def test_a_record_cannot_be_changed() -> None:
    made = record({"prompt": TEXT})

    with pytest.raises(AttributeError):
        made.content = "other"  # type: ignore[misc]


# --- header ---


@pytest.mark.parametrize("name", ["task_prompt", "Task Prompt", " TASK-PROMPT ", "task prompt"])
def test_column_names_match_however_they_are_written(name: str) -> None:
    assert normalize_name(name) == "task_prompt"
    assert record({name: TEXT, "other": LONGER}).content == TEXT


def test_of_two_columns_of_one_name_the_leftmost_counts() -> None:
    assert record({"prompt": TEXT, "ID": "left", "id": "right"}).identity == "left"


# --- type ---


@pytest.mark.parametrize(
    ("row", "job", "expected"),
    [
        ({"type": "feedback"}, TASK, FEEDBACK),
        ({"type": " FeedBack "}, TASK, FEEDBACK),
        ({"type": "Task"}, FEEDBACK, TASK),
        ({"type": "PROMPT"}, FEEDBACK, TASK),
        ({"record_type": "feedback"}, TASK, FEEDBACK),
        ({"record_type": "task", "type": "feedback"}, TASK, FEEDBACK),
        ({"type": "homonyms", "record_type": "feedback"}, TASK, FEEDBACK),
        ({"type": "homonyms"}, TASK, TASK),
        ({"type": "homonyms"}, FEEDBACK, FEEDBACK),
        ({"type": "my feedback"}, TASK, TASK),
        ({"type": "task", "feedback_id": "f1"}, FEEDBACK, TASK),
        ({"feedback_id": "f1"}, TASK, FEEDBACK),
        ({"feedback_id": " "}, TASK, TASK),
        ({"feedback_content": TEXT, "task_prompt": TEXT}, TASK, FEEDBACK),
        ({"feedback_content": TEXT, "task_prompt": " "}, TASK, TASK),
        ({"feedback_content": "", "task_prompt": TEXT}, TASK, TASK),
        ({}, FEEDBACK, FEEDBACK),
        ({}, TASK, TASK),
    ],
)
def test_type(row: dict[str, str], job: RecordType, expected: RecordType) -> None:
    assert record({**row, "body": TEXT}, job=job).type is expected


# --- content ---

CONTENT_COMMON = ["content", "body", "task_content", "text", "message", "instruction", "response"]
CONTENT_ORDER = {
    FEEDBACK: ["feedback_content", "feedback", "prompt", "task_prompt", *CONTENT_COMMON],
    TASK: ["prompt", "task_prompt", "feedback_content", "feedback", *CONTENT_COMMON],
}


@pytest.mark.parametrize("job", [TASK, FEEDBACK])
@pytest.mark.parametrize("rank", range(11))
def test_content_is_the_first_listed_column_with_a_value(job: RecordType, rank: int) -> None:
    order = CONTENT_ORDER[job]
    row = {name: f"the value of {name}" if place >= rank else "  " for place, name in enumerate(order)}
    # The type is said, so that feedback_content beside task_prompt does not say it.
    made = record({"type": job.value, **dict(reversed(row.items())), "x": LONGER})

    assert made.content == f"the value of {order[rank]}"


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"prompt": "ten chars.", "x": LONGER}, "ten chars."),
        ({"prompt": "nine char", "x": LONGER}, LONGER),
        ({"prompt": "nine char", "x": "eleven char"}, "eleven char"),
        ({"prompt": "nine char", "x": "ten chars."}, "nine char"),
        ({"x": "eleven char", "y": LONGER}, LONGER),
        ({"x": "left column", "y": "rightcolumn"}, "left column"),
        ({"prompt": "short", "body": TEXT}, TEXT),
        ({"prompt": "日本語", "x": "日本語日本語日本語日本"}, "日本語日本語日本語日本"),
    ],
)
def test_the_longest_value_stands_in_for_a_short_or_missing_content(
    row: dict[str, str], content: str
) -> None:
    assert record(row).content == content


@pytest.mark.parametrize("row", [{"x": "ten chars."}, {"prompt": " ", "x": ""}, {"id": LONGER}])
def test_a_row_without_content_is_skipped(row: dict[str, str]) -> None:
    assert read(row) is SkipReason.EMPTY_CONTENT


EXCEPTED = [
    "task_id", "id", "uuid", "record_id",
    "task_key", "feedback_id",
    "created_by_id", "author_id", "created_by_name", "author_name",
    "task_creator_name", "rater_name",
    "created_by_email", "author_email", "task_creator_email", "rater_email",
    "prompt_quality_rating", "feedback_quality_rating", "quality_rating", "rating",
    "category", "label", "score", "avg_score",
    "my_rating", "scoreboard",
    "created_at", "createdat", "task_created_at", "feedback_created_at",
    "timestamp", "date_created",
    "updated_at", "updatedat", "date_updated", "modified_at",
]  # fmt: skip


@pytest.mark.parametrize("name", EXCEPTED)
@pytest.mark.parametrize("job", [TASK, FEEDBACK])
def test_no_identity_creator_rating_or_timestamp_stands_in_for_the_content(
    name: str, job: RecordType
) -> None:
    assert record({"type": job.value, name: LONGER, "x": "eleven char"}).content == "eleven char"


@pytest.mark.parametrize(
    "target", ["rating", "id", "createdAt", "updatedAt", "createdById", "createdByName", "createdByEmail"]
)
def test_nor_does_a_column_that_is_mapped_to_one_of_them(target: str) -> None:
    assert record({"mine": LONGER, "x": "eleven char"}, mapping={target: "mine"}).content == "eleven char"


# --- category ---


@pytest.mark.parametrize(
    ("rating", "category"),
    [
        *[
            (word, TOP)
            for word in ("top 10%", "top_10", "top10", "TOP-10", "Top  10", "in the top 10 of all")
        ],
        *[(word, TOP) for word in ("is_top_10", "top_10_percent", "top", "Selected", " better ")],
        *[(word, BOTTOM) for word in ("bottom 10%", "bottom_10", "bottom10", "BOTTOM-10")],
        *[(word, BOTTOM) for word in ("bottom", "REJECTED", "worse")],
        *[(word, None) for word in ("top 100", "top 10.5", "top 10,000", "laptop 10", "3top10", "stop 10")],
        *[(word, None) for word in ("bottom 100", "bottom 10.5", "rock bottom", "top 1", "top ten", "tops")],
        *[(percent, TOP) for percent in ("90%", "100%", "95 %", "90.0%", "99.9%")],
        *[(percent, BOTTOM) for percent in ("10%", "0%", "9.99%", "10.0%")],
        *[(percent, None) for percent in ("89.9%", "10.1%", "50%", "-5%", "%", "9O%")],
        *[(number, TOP) for number in ("0.92", "1.0", "0.81", ".9", "0.80000000000000000000001")],
        *[(number, BOTTOM) for number in ("0.0", "0.19", ".1")],
        *[(number, None) for number in ("0.8", "0.2", "0.5", "0.80")],
        *[(number, BOTTOM) for number in ("0", "1", "2", "2.0", "1.5", "1.01", "01")],
        *[(number, None) for number in ("3", "2.1", "3.99", "5.1", "6", "8.9")],
        *[(number, TOP) for number in ("4", "4.0", "5", "5.0", "9", "9.5", "10", "10.0")],
        *[(number, None) for number in ("11", "10.01", "95")],
        *[
            (word, None)
            for word in ("40/100", "-3", "+4", "1e3", "4,5", "5.", "\u0665", "½", "good", "nan", "inf")
        ],
        pytest.param("9" * 5000, None, id="5000 digits"),
    ],
)
def test_category(rating: str, category: RecordCategory | None) -> None:
    assert record({"prompt": TEXT, "rating": rating}).category is category


RATINGS = [
    "prompt_quality_rating",
    "feedback_quality_rating",
    "quality_rating",
    "rating",
    "category",
    "label",
    "score",
    "avg_score",
]


@pytest.mark.parametrize("rank", range(8))
def test_the_rating_is_the_first_listed_column_with_a_value(rank: int) -> None:
    row = (
        dict.fromkeys(RATINGS[:rank], " ") | {RATINGS[rank]: "top"} | dict.fromkeys(RATINGS[rank + 1 :], "x")
    )

    assert record({"prompt": TEXT, **dict(reversed(row.items()))}).category is TOP


@pytest.mark.parametrize(
    "row",
    [
        {"final_rating": "top"},
        {"Score (1-5)": "5"},
        {"my_score": "top", "my_rating": "bottom"},
        {"rating": "", "my_score": "top"},
        {"my_rating": " ", "my_score": "top"},
    ],
)
def test_else_the_leftmost_column_with_a_telling_name(row: dict[str, str]) -> None:
    assert record({"prompt": TEXT, **row}).category is TOP


def test_a_listed_rating_goes_before_a_telling_name() -> None:
    assert record({"my_score": "bottom", "prompt": TEXT, "label": "top"}).category is TOP


def test_without_a_rating_there_is_no_category() -> None:
    assert record({"prompt": TEXT, "quality": "top"}).category is None


# --- identity ---

IDENTITIES = {
    TASK: ["task_id", "id", "uuid", "record_id", "task_key"],
    FEEDBACK: ["feedback_id", "id", "uuid", "record_id"],
}


@pytest.mark.parametrize(
    ("kind", "rank"), [(kind, rank) for kind, names in IDENTITIES.items() for rank in range(len(names))]
)
def test_identity_is_the_first_listed_column_with_a_value(kind: RecordType, rank: int) -> None:
    names = IDENTITIES[kind]
    row = {name: f" {name} " if place >= rank else "" for place, name in enumerate(names)}

    assert record({"type": kind.value, "body": TEXT, **dict(reversed(row.items()))}).identity == names[rank]


@pytest.mark.parametrize(
    ("kind", "name"), [(FEEDBACK, "task_id"), (FEEDBACK, "task_key"), (TASK, "feedback_id")]
)
def test_the_other_types_identity_is_none(kind: RecordType, name: str) -> None:
    assert record({"type": kind.value, "body": TEXT, name: "7"}).identity is None


# --- creator ---


@pytest.mark.parametrize(
    ("kind", "attribute", "names"),
    [
        (TASK, "created_by_id", ["created_by_id", "author_id"]),
        (FEEDBACK, "created_by_id", ["created_by_id", "author_id"]),
        (TASK, "created_by_name", ["created_by_name", "author_name", "task_creator_name"]),
        (FEEDBACK, "created_by_name", ["created_by_name", "author_name", "rater_name"]),
        (TASK, "created_by_email", ["created_by_email", "author_email", "task_creator_email"]),
        (FEEDBACK, "created_by_email", ["created_by_email", "author_email", "rater_email"]),
    ],
)
def test_creator(kind: RecordType, attribute: str, names: list[str]) -> None:
    row = dict.fromkeys(reversed(names), "")
    assert getattr(record({"type": kind.value, "body": TEXT, **row}), attribute) is None
    for name in reversed(names):
        row[name] = f"from {name}"
        assert getattr(record({"type": kind.value, "body": TEXT, **row}), attribute) == f"from {name}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TASK, "rater_name"),
        (TASK, "rater_email"),
        (FEEDBACK, "task_creator_name"),
        (FEEDBACK, "task_creator_email"),
    ],
)
def test_the_other_types_creator_is_not_the_records(kind: RecordType, name: str) -> None:
    made = record({"type": kind.value, "body": TEXT, name: "somebody"})

    assert (made.created_by_name, made.created_by_email) == (None, None)


# --- times ---


@pytest.mark.parametrize(
    ("kind", "attribute", "names"),
    [
        (
            TASK,
            "created_at",
            [
                "created_at",
                "createdAt",
                "task_created_at",
                "feedback_created_at",
                "timestamp",
                "date_created",
            ],
        ),
        (
            FEEDBACK,
            "created_at",
            [
                "created_at",
                "createdAt",
                "feedback_created_at",
                "task_created_at",
                "timestamp",
                "date_created",
            ],
        ),
        (TASK, "updated_at", ["updated_at", "updatedAt", "date_updated", "modified_at"]),
        (FEEDBACK, "updated_at", ["updated_at", "updatedAt", "date_updated", "modified_at"]),
    ],
)
def test_a_time_is_of_the_first_listed_column_with_a_value(
    kind: RecordType, attribute: str, names: list[str]
) -> None:
    row = dict.fromkeys(reversed(names), "")
    assert getattr(record({"type": kind.value, "body": TEXT, **row}), attribute) is None
    for year, name in enumerate(reversed(names), start=2001):
        row[name] = str(year)
        made = record({"type": kind.value, "body": TEXT, **row})
        assert getattr(made, attribute) == datetime(year, 1, 1)  # noqa: DTZ001 - UTC without zone
    row[names[0]] = "last week"
    assert getattr(record({"type": kind.value, "body": TEXT, **row}), attribute) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-29", "2024-02-29T00:00:00"),
        ("2024-02-29T10:20:30", "2024-02-29T10:20:30"),
        ("2024-02-29 10:20", "2024-02-29T10:20:00"),
        ("2024-02-29T10:20:30Z", "2024-02-29T10:20:30"),
        ("2024-02-29T10:20:30.123456+02:00", "2024-02-29T08:20:30.123456"),
        ("2024-02-29T23:30:00-0130", "2024-03-01T01:00:00"),
        ("2024-02-29T10:20:30,5", "2024-02-29T10:20:30.500000"),
        ("20240229T102030Z", "2024-02-29T10:20:30"),
        ("2024-W09-4", "2024-02-29T00:00:00"),
        ("2024", "2024-01-01T00:00:00"),
        ("2024-02", "2024-02-01T00:00:00"),
        ("20240229", "2024-02-29T00:00:00"),
        ("20240230", "1970-08-23T06:17:10"),  # no date, so seconds
        ("1709202030", "2024-02-29T10:20:30"),
        ("1709202030.25", "2024-02-29T10:20:30.250000"),
        ("1709202030123", "2024-02-29T10:20:30.123000"),
        ("1709202030123.5", "2024-02-29T10:20:30.123500"),
        ("1712051230912", "2024-04-02T09:47:10.912000"),  # not 12:30 on a day of 1712
        ("0", "1970-01-01T00:00:00"),
        ("99999999999", "5138-11-16T09:46:39"),
        ("100000000000", "1973-03-03T09:46:40"),
    ],
)
def test_times_that_are_read(text: str, expected: str) -> None:
    made = record({"prompt": TEXT, "created_at": f" {text} ", "updated_at": text})

    assert made.created_at == made.updated_at == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "29.02.2024",
        "02/29/2024",
        "2023-02-29",
        "2024-13",
        "0000",
        "2024-02-29T25:00",
        "-5",
        "1e9",
        "1,709,202,030",
        "nan",
        "999999999999999",
        pytest.param("9" * 5000, id="5000 digits"),
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-01:00",
    ],
)
def test_a_time_that_cannot_be_read_is_the_time_of_loading(text: str) -> None:
    made = record({"prompt": TEXT, "created_at": text, "updated_at": text, "timestamp": "2024"})

    assert (made.created_at, made.updated_at) == (None, None)


# --- keywords ---


@pytest.mark.parametrize(
    ("keywords", "kept"),
    [
        ((), True),
        (("TEXT",), True),
        (("zebra", "long en"), True),
        (("zebra",), False),
        (("notes",), False),
        ((" ", ""), True),
        ((" text ",), True),
        (("ÉCOLE",), True),
    ],
)
def test_keywords_filter_by_content_alone(keywords: tuple[str, ...], *, kept: bool) -> None:
    made = read({"prompt": f"{TEXT} école", "x": "notes"}, keywords=keywords)

    assert (made is not SkipReason.KEYWORD_MISMATCH) is kept


# --- mapping ---


def test_a_mapped_content_is_taken_however_short_and_nothing_stands_in_for_it() -> None:
    mapping = {"content": "My Column"}

    assert record({"prompt": TEXT, "my_column": " hi ", "x": LONGER}, mapping=mapping).content == "hi"
    assert read({"prompt": TEXT, "my_column": " ", "x": LONGER}, mapping=mapping) is SkipReason.EMPTY_CONTENT


@pytest.mark.parametrize(
    ("word", "job", "expected"),
    [
        ("Feedback", TASK, FEEDBACK),
        ("task", FEEDBACK, TASK),
        ("prompt", FEEDBACK, TASK),
        ("other", TASK, TASK),
        ("", FEEDBACK, FEEDBACK),
    ],
)
def test_a_mapped_type_decides_and_else_the_jobs(word: str, job: RecordType, expected: RecordType) -> None:
    row = {
        "body": TEXT,
        "kind": word,
        "type": "task" if job is FEEDBACK else "feedback",
        "feedback_id": "f1",
        "feedback_content": TEXT,
        "task_prompt": TEXT,
    }

    assert record(row, job=job, mapping={"type": "kind"}).type is expected


@pytest.mark.parametrize(
    ("target", "attribute", "detected", "value", "expected"),
    [
        ("rating", "category", "rating", "top", TOP),
        ("id", "identity", "task_id", "7", "7"),
        ("createdById", "created_by_id", "created_by_id", "u", "u"),
        ("createdByName", "created_by_name", "created_by_name", "Ann", "Ann"),
        ("createdByEmail", "created_by_email", "created_by_email", "a@b.c", "a@b.c"),
        ("createdAt", "created_at", "created_at", "2024", datetime(2024, 1, 1)),  # noqa: DTZ001 - UTC without zone
        ("updatedAt", "updated_at", "updated_at", "2024", datetime(2024, 1, 1)),  # noqa: DTZ001 - UTC without zone
    ],
)
def test_a_mapped_column_overrides_detection(
    target: str, attribute: str, detected: str, value: str, expected: object
) -> None:
    mapping = {target: "mine"}

    assert (
        getattr(record({"prompt": TEXT, detected: "5", "mine": value}, mapping=mapping), attribute)
        == expected
    )
    assert getattr(record({"prompt": TEXT, detected: "5", "mine": ""}, mapping=mapping), attribute) is None


def test_a_mapping_prefers_the_column_of_exactly_that_name() -> None:
    row = {"prompt": TEXT, "My-Id": "left", "my id": "right"}

    assert record(row, mapping={"id": "my id"}).identity == "right"
    assert record(row, mapping={"id": "MY_ID"}).identity == "left"


def test_a_mapped_column_that_the_file_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(
        InputError, match="no column 'answer', which is to give content: its columns are id, prompt"
    ):
        read({"id": "1", "prompt": TEXT}, mapping={"content": "answer"})


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="cannot set 'colour': choose from content, createdAt"):
        read({"id": "1", "prompt": TEXT}, mapping={"colour": "id"})
