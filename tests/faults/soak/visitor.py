"""Somebody who reads by HTTP all the time, so that the web server has something to do."""

import urllib.error
import urllib.request
from collections import Counter
from itertools import cycle

from pipeline.database import transaction
from pipeline.settings import get_settings
from pipeline.tokens import ensure_first_token
from tests.faults.soak.background import Background

_PAUSE_SECONDS = 0.5
_PATHS = (
    "/api/status",
    "/api/records?sortBy=alignmentScore",
    "/api/ingest/jobs",
    "/api/records?limit=50",
)


class Visitor(Background):
    """Asks one question after the other in a thread of its own, and counts what is answered."""

    def __init__(self) -> None:
        super().__init__()
        with transaction() as session:
            token = ensure_first_token(session)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._address = f"http://127.0.0.1:{get_settings().port}"
        # By status, or `none` where nobody answered.
        self.answers: Counter[str] = Counter()

    def _work(self) -> None:
        for path in cycle(_PATHS):
            if self._over.wait(_PAUSE_SECONDS):
                return
            self.answers[self._ask(path)] += 1

    def _ask(self, path: str) -> str:
        request = urllib.request.Request(self._address + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                answer.read()
                return str(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {path.partition('?')[0]}"
        except OSError:
            return "none"
