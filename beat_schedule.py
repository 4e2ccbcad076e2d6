"""The timetable: what runs without anyone asking. Each entry expires before its next run."""

from typing import TypedDict


class Options(TypedDict):
    """What Celery's send_task takes besides the name."""

    queue: str
    expires: float


class Entry(TypedDict):
    """One line of the timetable; `schedule` is in seconds."""

    task: str
    schedule: float
    options: Options


def _every(seconds: float, task: str) -> Entry:
    return {"task": task, "schedule": seconds, "options": {"queue": "schedule", "expires": seconds}}


SCHEDULE: dict[str, Entry] = {
    # Lost messages, dead workers and chained analyses: the ledger is asked every few seconds.
    "sweep": _every(3.0, "schedule.sweep"),
    # Uploads past their time, files nobody names, interrupted removals.
    "tidy": _every(3600.0, "schedule.tidy"),
    # Open bonus windows are recounted every minute, ended ones frozen.
    "aggregate-bonus-windows": _every(60.0, "schedule.aggregate_bonus_windows"),
}
