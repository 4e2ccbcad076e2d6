"""Which columns of a file mean what: the lists of the record rules, turned into positions once a file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError
from schemas.enums import RecordType
from schemas.options import MAPPING_TARGETS

Positions = tuple[int, ...]

_FEEDBACK_CONTENT = ("feedback_content", "feedback", "prompt", "task_prompt")
_TASK_CONTENT = ("prompt", "task_prompt", "feedback_content", "feedback")
_ANY_CONTENT = ("content", "body", "task_content", "text", "message", "instruction", "response")
_CREATED, _CREATED_LAST = ("created_at", "createdat"), ("timestamp", "date_created")
_UPDATED = ("updated_at", "updatedat", "date_updated", "modified_at")
_CREATOR_ID = ("created_by_id", "author_id")
_CREATOR_NAME = ("created_by_name", "author_name")
_CREATOR_EMAIL = ("created_by_email", "author_email")

# Mapping target -> column names, first match first.
_NAMES: dict[RecordType, dict[str, tuple[str, ...]]] = {
    RecordType.TASK: {
        "content": _TASK_CONTENT + _ANY_CONTENT,
        "id": ("task_id", "id", "uuid", "record_id", "task_key"),
        "createdById": _CREATOR_ID,
        "createdByName": (*_CREATOR_NAME, "task_creator_name"),
        "createdByEmail": (*_CREATOR_EMAIL, "task_creator_email"),
        "createdAt": (*_CREATED, "task_created_at", "feedback_created_at", *_CREATED_LAST),
        "updatedAt": _UPDATED,
    },
    RecordType.FEEDBACK: {
        "content": _FEEDBACK_CONTENT + _ANY_CONTENT,
        "id": ("feedback_id", "id", "uuid", "record_id"),
        "createdById": _CREATOR_ID,
        "createdByName": (*_CREATOR_NAME, "rater_name"),
        "createdByEmail": (*_CREATOR_EMAIL, "rater_email"),
        "createdAt": (*_CREATED, "feedback_created_at", "task_created_at", *_CREATED_LAST),
        "updatedAt": _UPDATED,
    },
}
_TYPE = ("type", "record_type")
_RATING = (
    "prompt_quality_rating",
    "feedback_quality_rating",
    "quality_rating",
    "rating",
    "category",
    "label",
    "score",
    "avg_score",
)
_RATING_PARTS = ("rating", "score")


@dataclass(frozen=True, slots=True)
class TypeColumns:
    """Where a record of one type finds its values: positions in the row, first match first."""

    content: Positions
    identity: Positions
    created_by_id: Positions
    created_by_name: Positions
    created_by_email: Positions
    created_at: Positions
    updated_at: Positions


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a file mean. A mapped column stands alone in its place.

    `texts` are the columns whose longest value may stand in for the content: all but identity, creator,
    rating and timestamp columns of either type. `feedback_id`, `feedback_content` and `task_prompt` hint at
    a row's type and are empty where type is mapped.
    """

    type_words: Positions
    feedback_id: Positions
    feedback_content: Positions
    task_prompt: Positions
    rating: Positions
    texts: Positions
    content_is_mapped: bool
    by_type: Mapping[RecordType, TypeColumns]


def resolve_columns(header: Sequence[str], mapping: Mapping[str, str]) -> Columns:
    """Find the columns that the rules name.

    Raises:
        InputError: the mapping has a target that there is none of, or a column that the header has not.
    """
    found = _HeaderIndex(header)
    mapped = {target: (found.mapped(target, column),) for target, column in mapping.items()}
    # A mapped type decides alone: what else hints at feedback is not asked.
    hints = "type" not in mapped
    by_type = {
        kind: {target: mapped.get(target) or found.listed(names) for target, names in targets.items()}
        for kind, targets in _NAMES.items()
    }
    special = _special(found, mapped)
    return Columns(
        type_words=mapped.get("type") or found.listed(_TYPE),
        feedback_id=found.listed(("feedback_id",)) if hints else (),
        feedback_content=found.listed(("feedback_content",)) if hints else (),
        task_prompt=found.listed(("task_prompt",)) if hints else (),
        rating=mapped.get("rating") or found.rating(),
        texts=tuple(position for position in range(len(header)) if position not in special),
        content_is_mapped="content" in mapped,
        by_type={kind: _type_columns(targets) for kind, targets in by_type.items()},
    )


def normalize_name(name: str) -> str:
    """Bring a column's name into the form in which the rules' names are written."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


class _HeaderIndex:
    """A header by normalized names; of columns with the same name the leftmost counts."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header = tuple(header)
        self.names = [normalize_name(name) for name in header]
        self._exact = {name: position for position, name in reversed(list(enumerate(header)))}
        self._positions = {name: position for position, name in reversed(list(enumerate(self.names)))}

    def listed(self, names: Iterable[str]) -> Positions:
        return tuple(self._positions[name] for name in names if name in self._positions)

    def rating(self) -> Positions:
        """Give the listed columns, then those with a telling name from left to right.

        "The leftmost column whose name contains rating or score" is taken as the leftmost that holds a value,
        as "first non-empty" is everywhere in the rules.
        """
        return tuple(dict.fromkeys(self.listed(_RATING) + self.telling()))

    def telling(self) -> Positions:
        return tuple(
            position
            for position, name in enumerate(self.names)
            if any(part in name for part in _RATING_PARTS)
        )

    def mapped(self, target: str, column: str) -> int:
        if target not in MAPPING_TARGETS:
            raise InputError(
                f"a column mapping cannot set {target!r}: choose from {', '.join(sorted(MAPPING_TARGETS))}"
            )
        position = self._exact.get(column.strip(), self._positions.get(normalize_name(column)))
        if position is None:
            raise InputError(
                f"the file has no column {column!r}, which is to give {target}: "
                f"its columns are {', '.join(self._header)}"
            )
        return position


def _special(found: _HeaderIndex, mapped: Mapping[str, Positions]) -> set[int]:
    """Give the identity, creator, rating and timestamp columns, by name of either type or by mapping."""
    names = {
        name
        for targets in _NAMES.values()
        for target, listed in targets.items()
        if target != "content"
        for name in listed
    }.union(_RATING)
    special = {position for position, name in enumerate(found.names) if name in names}
    special.update(found.telling())
    for target, positions in mapped.items():
        if target not in ("content", "type"):
            special.update(positions)
    return special


def _type_columns(positions: Mapping[str, Positions]) -> TypeColumns:
    return TypeColumns(
        content=positions["content"],
        identity=positions["id"],
        created_by_id=positions["createdById"],
        created_by_name=positions["createdByName"],
        created_by_email=positions["createdByEmail"],
        created_at=positions["createdAt"],
        updated_at=positions["updatedAt"],
    )
