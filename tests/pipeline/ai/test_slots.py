"""Slots over real processes: never more calls at a time than allowed, and none lost with a process."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.ai.slots import Slots
from tests.ai_server import AiServer

Start = Callable[..., subprocess.Popen[str]]

HOLDER = """
import asyncio, sys
from pathlib import Path
from pipeline.ai.slots import Slots

async def main(folder, count):
    slots = Slots(Path(folder), "a server")
    slots.limit = 3
    async def hold():
        async with slots.hold():
            print("held", flush=True)
            await asyncio.sleep(600)
    await asyncio.gather(*(hold() for _ in range(int(count))))

asyncio.run(main(*sys.argv[1:]))
"""
CALLER = """
import asyncio, sys
from pathlib import Path
import httpx
from pipeline.ai.slots import Slots

async def main(folder, url, count):
    slots = Slots(Path(folder), url)
    slots.limit = 3
    async with httpx.AsyncClient() as client:
        async def call(number):
            async with slots.hold():
                body = {"model": "embedder", "input": [f"text {number}"]}
                (await client.post(url + "/embeddings", json=body)).raise_for_status()
        await asyncio.gather(*(call(number) for number in range(int(count))))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def _start(script: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield _start
    for process in started:
        process.kill()
        process.communicate()


def _wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


def test_several_processes_together_make_as_many_calls_as_allowed_and_never_more(
    tmp_path: Path, ai_server: AiServer, start: Start
) -> None:
    ai_server.behaviour.latency = 0.01
    processes = [start(CALLER, tmp_path, ai_server.url, 30) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert ai_server.seen.calls == 60
    assert ai_server.seen.most_at_once == 3


def test_a_process_that_is_killed_gives_its_slots_back(tmp_path: Path, start: Start) -> None:
    process = start(HOLDER, tmp_path, 3)
    for _ in range(3):
        _wait_for_line(process)
    slots = Slots(tmp_path, "a server")
    slots.limit = 3
    assert slots._take() is None

    async def take_all() -> list[int]:
        waiting = [asyncio.create_task(slots._acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        os.kill(process.pid, signal.SIGKILL)
        return await asyncio.gather(*waiting)

    assert sorted(asyncio.run(take_all())) == [0, 1, 2]
    slots.close()


def test_a_slot_goes_to_who_waits_in_the_same_process_and_else_to_another(
    tmp_path: Path, start: Start
) -> None:
    async def work() -> None:
        slots = Slots(tmp_path, "a server")
        slots.limit = 3
        held = [await slots._acquire() for _ in range(3)]
        here = asyncio.create_task(slots._acquire())
        await asyncio.sleep(0)
        other = start(HOLDER, tmp_path, 1)
        slots._release(held[0])
        assert await here == held[0]
        slots._release(held[1])
        await asyncio.to_thread(_wait_for_line, other)
        assert slots._take() is None
        slots.close()

    asyncio.run(work())


def test_two_processes_at_a_time_take_slots_while_others_wait_for_their_turn(tmp_path: Path) -> None:
    async def hold(slots: Slots) -> None:
        async with slots.hold():
            await asyncio.sleep(0)

    async def work() -> None:
        first, *others = everybody = [Slots(tmp_path, "a server") for _ in range(4)]
        for slots in everybody:
            slots.limit = 2
        held = [await first._acquire() for _ in range(2)]
        waiting = [asyncio.create_task(hold(slots)) for slots in others for _ in range(3)]
        await asyncio.sleep(0.02)
        assert [slots._turn is not None for slots in everybody] == [False, True, True, False]
        for slot in held:
            first._release(slot)
        await asyncio.wait_for(asyncio.gather(*waiting), 10)
        assert [slots._turn for slots in everybody] == [None] * 4
        for slots in everybody:
            slots.close()

    asyncio.run(work())


def test_servers_have_slots_of_their_own(tmp_path: Path) -> None:
    first, second = Slots(tmp_path, "a server"), Slots(tmp_path, "another server")
    assert (first._take(), first._take(), second._take()) == (0, None, 0)
    first.close()
    second.close()


def test_fewer_slots_hold_from_the_next_call_on(tmp_path: Path) -> None:
    async def work() -> None:
        slots, again = Slots(tmp_path, "a server"), Slots(tmp_path, "a server")
        slots.limit, again.limit = 3, 3
        held = [await slots._acquire() for _ in range(3)]
        slots.limit = 1
        waiting = asyncio.create_task(slots._acquire())
        await asyncio.sleep(0)
        slots._release(2)
        slots._release(1)
        await asyncio.sleep(0)
        assert not waiting.done()
        assert again._take() == 1
        slots._release(held[0])
        assert await waiting == 0
        slots.close()
        again.close()

    asyncio.run(work())


def test_a_call_that_is_given_up_while_it_waits_keeps_no_slot(tmp_path: Path) -> None:
    async def work() -> None:
        slots = Slots(tmp_path, "a server")
        held = await slots._acquire()
        waiting = asyncio.create_task(slots._acquire())
        await asyncio.sleep(0)
        # Both in one turn of the loop: the slot is handed over to who does not want it any more.
        slots._release(held)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert slots._take() == 0
        slots.close()

    asyncio.run(work())
