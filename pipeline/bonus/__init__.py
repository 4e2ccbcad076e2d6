"""Bonus windows: who made how many records in a span of time, and which targets that meets."""

from pipeline.bonus.standings import (
    Standing,
    WindowStandings,
    refresh_open_windows,
    refresh_window,
    show_standings,
)
from pipeline.bonus.windows import create_window, delete_window, get_window, list_windows, update_window

__all__ = [
    "Standing",
    "WindowStandings",
    "create_window",
    "delete_window",
    "get_window",
    "list_windows",
    "refresh_open_windows",
    "refresh_window",
    "show_standings",
    "update_window",
]
