"""A worker that forks after a call: what it has connected is left to it, and its child connects anew."""

import subprocess
import sys
from collections.abc import Callable

from pipeline.ai import Provider, run
from tests.ai_server import AiServer

FORKS = """
import os, sys
from pipeline.ai import AiConfig, open_provider, run
from pipeline.database import forget_engine
config = AiConfig("lmstudio", sys.argv[1], "chatter", "embedder")
run(open_provider(config).embed(["one text"]))
child = os.fork()
if child == 0:
    forget_engine()
    run(open_provider(config).embed(["another text"]))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
run(open_provider(config).embed(["a third text"]))
print("done")
"""


def test_a_forked_child_makes_its_own_calls(
    ai_server: AiServer, make_provider: Callable[..., Provider]
) -> None:
    run(make_provider().embed(["a text"]))
    command = [sys.executable, "-c", FORKS, ai_server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, ai_server.seen.calls) == ("done\n", 4), done.stderr
    # This process, the one that forks, and its child.
    assert ai_server.seen.connections == 3
