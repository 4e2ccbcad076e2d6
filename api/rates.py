"""How many requests may come in a time: of a token, and of an address without one."""

import hashlib
import logging
import math
import time

from flask import Flask, current_app, request
from limits import RateLimitItem, parse, parse_many
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from werkzeug.exceptions import TooManyRequests

from pipeline.errors import InputError
from pipeline.servers import endpoints
from pipeline.settings import get_settings

log = logging.getLogger(__name__)

_NAME = "opspipe rates"
_GUESSES = parse("60/minute")
# A broker that is away is asked again after so many seconds, and is waited for no longer than that.
_AWAY_SECONDS = 5.0
_PATIENCE_SECONDS = 2.0


class Rates:
    """Counts requests where all web processes see it, and in each by itself while the broker is away.

    Args:
        rates: what a caller may do, as in `1200/minute; 20/second`.
        broker_url: where to count; a broker that cannot is not asked.

    Raises:
        InputError: that is no rate.
    """

    def __init__(self, rates: str, broker_url: str) -> None:
        try:
            self._rates = parse_many(rates)
        except ValueError as error:
            raise InputError(
                f"OPSPIPE_RATE_LIMIT is {rates!r}: set a rate such as 1200/minute, or nothing"
            ) from error
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        if broker_url.startswith("redis"):
            storage = storage_from_string(
                broker_url.replace("redis+socket://", "redis+unix://", 1),
                key_prefix="opspipe:rate",
                wrap_exceptions=True,
                socket_timeout=_PATIENCE_SECONDS,
                socket_connect_timeout=_PATIENCE_SECONDS,
            )
            self._shared = SlidingWindowCounterRateLimiter(storage)
        self._is_away_until = 0.0

    def bound(self) -> None:
        """Count the request for its caller.

        Raises:
            TooManyRequests: there were too many.
        """
        for rate in self._rates:
            seconds = self._count(rate, "requests", _caller())
            if seconds:
                raise TooManyRequests(
                    f"there were more requests than {rate}: come back when Retry-After says",
                    retry_after=seconds,
                )

    def note_guess(self) -> None:
        """Count a request whose token is none: who guesses has another token each time, and one address.

        Raises:
            TooManyRequests: there were too many from this address.
        """
        seconds = self._count(_GUESSES, "guesses", _address())
        if seconds:
            raise TooManyRequests(
                "too many requests without a valid token came from this address: come back when Retry-After "
                "says",
                retry_after=seconds,
            )

    def _count(self, rate: RateLimitItem, *who: str) -> int:
        """Count one; gives after how many seconds another one may come, 0 where this one may."""
        if self._shared is not None and time.monotonic() >= self._is_away_until:
            if self._is_away_until:
                # One looks whether it is back, and the others do not wait for that.
                self._is_away_until = time.monotonic() + _AWAY_SECONDS
            try:
                seconds = _count_by(self._shared, rate, *who)
            except StorageError as error:
                log.warning("requests are counted in each web process by itself: %s", error)
                self._is_away_until = time.monotonic() + _AWAY_SECONDS
            else:
                self._is_away_until = 0.0
                return seconds
        return _count_by(self._own, rate, *who)


def register_rates(app: Flask) -> None:
    """Count each request before it is looked at; nothing is counted where no rate is set.

    Raises:
        InputError: OPSPIPE_RATE_LIMIT is no rate.
    """
    rates = get_settings().rate_limit
    if rates:
        counted = app.extensions[_NAME] = Rates(rates, endpoints().broker_url)
        app.before_request(counted.bound)


def note_guess() -> None:
    """Count a request whose token is none, where requests are counted.

    Raises:
        TooManyRequests: there were too many from this address.
    """
    rates: Rates | None = current_app.extensions.get(_NAME)
    if rates is not None:
        rates.note_guess()


def _count_by(strategy: SlidingWindowCounterRateLimiter, rate: RateLimitItem, *who: str) -> int:
    if strategy.hit(rate, *who):
        return 0
    return max(1, math.ceil(strategy.get_window_stats(rate, *who).reset_time - time.time()))


def _caller() -> str:
    """Tell callers apart: by their token, else by their address."""
    token = request.headers.get("Authorization", "")
    return hashlib.sha256(token.encode()).hexdigest() if token else _address()


def _address() -> str:
    return request.remote_addr or "nowhere"
