"""Keeping a lease while the work goes on, whatever the work waits for."""

import logging
import threading
from types import TracebackType
from typing import Self

from pipeline import ledger
from pipeline.database import transaction
from pipeline.errors import TransientError
from pipeline.ledger import Claim

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews a claim's lease at a third of its length from a thread of its own, until the block ends."""

    def __init__(self, held: Claim, *, lease_seconds: float) -> None:
        self._held = held
        self._lease_seconds = lease_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {held.ref}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(self._lease_seconds / 3):
            try:
                with transaction() as session:
                    is_held = ledger.renew(session, self._held, lease_seconds=self._lease_seconds)
            except TransientError as error:
                log.warning("could not renew the lease of %s: %s", self._held.ref, error)
                continue
            if not is_held:
                # The completion will be refused by its fence; nothing more to keep.
                log.warning("the lease of %s was lost", self._held.ref)
                return
