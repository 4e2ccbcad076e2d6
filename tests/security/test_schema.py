"""The description against the server: schemathesis calls every route with what it takes and what it does not.

For minutes instead of seconds, and with other cases each time: `SCHEMATHESIS_SECONDS=300 pytest
tests/security/test_schema.py`.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from schemas.enums import UserRole
from tests.security.world import World

_ROOT = Path(__file__).parents[2]
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
# Who may do more does more; None has no token.
_CALLERS = (*3 * [UserRole.ADMIN], *2 * [UserRole.MANAGER], UserRole.USER, UserRole.PENDING, None)
_LONG_SECONDS = int(os.environ.get("SCHEMATHESIS_SECONDS", "0"))
_FEWEST_OPERATIONS = 50

pytestmark = [
    pytest.mark.skipif(find_spec("schemathesis") is None, reason="there is no schemathesis: `make setup`"),
    pytest.mark.timeout(_LONG_SECONDS + 120),
]


def test_every_answer_is_one_that_the_description_knows(world: World, tmp_path: Path) -> None:
    command = [
        sys.executable,
        *("-m", "schemathesis.cli", "run", f"http://127.0.0.1:{world.port}/api/openapi.json"),
        *("--checks", ",".join(_CHECKS), "--continue-on-failure", "--no-color"),
        # A request that hangs is told as such; Python 3.11 parses wrongly in several threads at once.
        *("--request-timeout", "20", "--workers", "1"),
        *_extent(),
    ]
    tokens = [None if role is None else world.tokens[role] for role in _CALLERS]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        "SCHEMATHESIS_HOOKS": "tests.security.schemathesis_hooks",
        "SCHEMATHESIS_WORLD": json.dumps({"known": world.known(), "tokens": tokens}),
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-20_000:]
    tested = re.search(r"Tested: (\d+)", said)
    assert tested, said
    assert int(tested[1]) >= _FEWEST_OPERATIONS


def _extent() -> list[str]:
    if _LONG_SECONDS:
        return ["--phases", "examples,coverage,fuzzing", "--max-time", str(_LONG_SECONDS)]
    # The same cases each time, without looking for the smallest one that fails.
    return ["--phases", "fuzzing", "--max-examples", "20", "--seed", "7", "--no-shrink"]
