"""Keeping a lease while the work goes on, whatever the work waits for."""

import logging
import threading
from contextvars import ContextVar
from types import TracebackType
from typing import Self

from pipeline import ledger
from pipeline.database import transaction
from pipeline.errors import TransientError
from pipeline.ledger import Claim, LeaseLostError
from pipeline.storage import Readable

log = logging.getLogger(__name__)

# A renewal that failed is tried again so soon: a database that is back gives everybody just one lease.
_TRY_AGAIN_SECONDS = 1.0

_current: ContextVar["LeaseKeeper | None"] = ContextVar("lease", default=None)


def check_lease() -> None:
    """Stop work on the chunk that this thread holds, if it is not wanted any more.

    A lost lease is seen at its next renewal; asking costs nothing, so long work asks at every block.

    Raises:
        LeaseLostError: somebody else has the chunk, or the job was stopped or deleted.
    """
    keeper = _current.get()
    if keeper is not None:
        keeper.check()


class LeasedReader:
    """A stream that is read only as long as the lease is held (see `check_lease`)."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            LeaseLostError: as `check_lease`.
        """
        check_lease()
        return self._source.read(size)


class LeaseKeeper:
    """Renews a claim's lease at a third of its length from a thread of its own, until the block ends."""

    def __init__(self, held: Claim, *, lease_seconds: float) -> None:
        self._held = held
        self._lease_seconds = lease_seconds
        self._over, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {held.ref}", daemon=True)

    def check(self) -> None:
        """See that the lease is still held, as far as the last renewal knew.

        Raises:
            LeaseLostError: it is not.
        """
        if self._lost.is_set():
            raise LeaseLostError(f"the lease of {self._held.ref} was lost")

    def __enter__(self) -> Self:
        self._thread.start()
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current.reset(self._token)
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        usual = pause = self._lease_seconds / 3
        while not self._over.wait(pause):
            pause = usual
            try:
                with transaction() as session:
                    is_held = ledger.renew(session, self._held, lease_seconds=self._lease_seconds)
            except TransientError as error:
                log.warning("could not renew the lease of %s: %s", self._held.ref, error)
                pause = min(usual, _TRY_AGAIN_SECONDS)
                continue
            if not is_held:
                # The completion would be refused by its fence; nothing more to keep.
                log.warning("the lease of %s was lost", self._held.ref)
                self._lost.set()
                return
