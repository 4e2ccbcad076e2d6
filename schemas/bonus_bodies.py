"""Request and response bodies of `/api/admin/bonus-windows`. What a window may be: contract.md, section 6."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, model_validator

from schemas.bodies import Asked, Body
from schemas.instants import Instant

# What an integer column holds.
Target = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class NewWindow(Asked):
    """A window to be made: bounds are inclusive, UTC without a zone; a target of 0 asks for nothing."""

    name: Name = "Bonus Window"
    start_time: datetime
    end_time: datetime
    target_task_count: Target = 0
    target_feedback_count: Target = 0
    target_task_count_tier2: Target = 0
    target_feedback_count_tier2: Target = 0


class WindowChange(Asked):
    """What is to change of a window; the window as it will be is checked as a whole."""

    window_id: UUID
    name: Name | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    target_task_count: Target | None = None
    target_feedback_count: Target | None = None
    target_task_count_tier2: Target | None = None
    target_feedback_count_tier2: Target | None = None

    @model_validator(mode="after")
    def _check_nulls(self) -> Self:
        nulls = [name for name in self.model_fields_set if getattr(self, name) is None]
        if nulls:
            raise ValueError("a field that is sent has a value: leave out what stays as it is")
        return self

    def changes(self) -> dict[str, object]:
        """Give the fields that were sent."""
        return self.model_dump(exclude={"window_id"}, exclude_unset=True, by_alias=False)


class WindowQuery(Asked):
    """The window that something is to be done with."""

    window_id: UUID


class WindowAnswer(Body):
    """A window."""

    id: UUID
    name: str
    start_time: Instant
    end_time: Instant
    target_task_count: int
    target_feedback_count: int
    target_task_count_tier2: int
    target_feedback_count_tier2: int
    created_by: UUID
    created_at: Instant
    updated_at: Instant


class WindowList(Body):
    """Windows, latest first."""

    windows: list[WindowAnswer]


class WindowDeletion(Body):
    """The window that is gone."""

    window_id: UUID


class StandingAnswer(Body):
    """What a person has made in a window; progress is in percent up to 100, null for a target of 0."""

    person: str
    name: str | None
    task_count: int
    feedback_count: int
    task_progress: int | None
    feedback_progress: int | None
    task_progress_tier2: int | None
    feedback_progress_tier2: int | None
    tier: int


class StandingsAnswer(Body):
    """A window's standings as they were last counted, the best first; `frozenAt` where they are final."""

    window_id: UUID
    name: str
    start_time: Instant
    end_time: Instant
    task_count: int
    feedback_count: int
    person_count: int
    computed_at: Instant | None
    frozen_at: Instant | None
    rows: list[StandingAnswer]
