"""What goes on beside a soak, in a thread of its own."""

import threading
from abc import ABC, abstractmethod


class Background(ABC):
    """Works from `start` to `stop`; an error that ends it before is in `error`, to be told at the end."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; once more does nothing."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - told at the end
            self.error = error

    @abstractmethod
    def _work(self) -> None:
        """Work until `_over` is set."""
