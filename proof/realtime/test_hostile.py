"""Hostile cases that belong to no other module; each case has a test."""

import ast
import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Literal

import httpx
import pytest

from app import realtime
from app.realtime import protocol
from app.realtime.limits import budget
from app.realtime.protocol import FLOOD, Close

from .client import DEADLINE_S
from .hostile import MARK, read_cases, results
from .live import Live, leftovers, make_settings, run_service, wait_until
from .raw_client import TEXT, handshake, masked, raw_client, raw_connection


def marked() -> Iterator[int]:
    """Yield the cases in the marks of all tests."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=name)) if name == MARK:
                    yield from (ast.literal_eval(number) for number in node.args)


def test_exactly_the_applicable_cases_have_a_test() -> None:
    cases = read_cases()
    assert len({case.number for case in cases}) == len(cases)
    assert {case.number for case in cases if case.applies} == set(marked())


def report(outcome: Literal["passed", "failed", "skipped"], *cases: int) -> pytest.TestReport:
    """Return a report by pytest on a test of these cases."""
    properties = [(MARK, case) for case in cases]
    return pytest.TestReport(
        "test", ("", 0, ""), {}, outcome, None, "call", user_properties=properties
    )


def test_a_case_has_the_worst_result_of_its_tests() -> None:
    reports = [report("passed", 1, 2), report("failed", 2), report("skipped", 3)]
    found = {case.number: result for result, case in results(reports)}
    assert (found[1], found[2], found[3], found[4]) == ("passed", "failed", "skipped", "not run")
    assert found[30] == "n/a"
    assert found.keys() == {case.number for case in read_cases()}


async def test_leftovers_of_a_test_are_found() -> None:
    before = leftovers()
    task = asyncio.create_task(asyncio.sleep(DEADLINE_S))
    assert not leftovers() <= before
    task.cancel()
    await wait_until(lambda: leftovers() <= before)
    with socket.socket():
        assert (leftovers() <= before) is (sys.platform != "linux")
    assert leftovers() <= before


@pytest.mark.hostile(25)
@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [("GET", {}, 404), ("POST", {}, 404), ("POST", {"Upgrade": "websocket"}, 404)],
)
async def test_the_route_takes_only_handshakes(
    live: Live, method: str, headers: dict[str, str], status: int
) -> None:
    async with live.http() as http:
        answer = await http.request(method, "/ws", headers=headers)
    assert answer.status_code == status


@pytest.mark.hostile(26)
@pytest.mark.parametrize("path", ["/", "/ws/", "/ws/../ws", "//ws", "/wss", "/%77s%00"])
async def test_only_one_path_is_served(live: Live, path: str) -> None:
    async with raw_connection("127.0.0.1", live.port) as client:
        client.send(handshake(await live.options(), path=path))
        assert (await client.head()).split(" ", 2)[1] in {"403", "404"}


@pytest.mark.hostile(60, 61, 62)
async def test_aborted_connections_do_not_disturb_the_others(live: Live) -> None:
    """Each sender's messages arrive complete and in order while other connections are reset."""
    reader, *writers = [await live.connect(user) for user in ("alice", "bob", "bob")]
    count = 200

    async def connect_and_reset() -> None:
        while not done.is_set():
            async with raw_client(await live.options("bob")) as dying:
                await dying.upgraded()
                dying.vanish()

    async def write(number: int) -> None:
        for sent in range(count):
            await writers[number].send(type="broadcast", data=[number, sent])

    done = asyncio.Event()
    resets = asyncio.create_task(connect_and_reset())
    await asyncio.gather(write(0), write(1))
    received: list[list[int]] = [[], []]
    for _ in range(2 * count):
        number, sent = (await reader.receive("message"))["data"]
        received[number].append(sent)
    assert received == [list(range(count))] * 2
    for writer in writers:
        for _ in range(count):
            await writer.receive("message")
    done.set()
    await resets


@pytest.mark.hostile(64)
def test_close_reasons_fit_into_a_close_frame() -> None:
    closes = [value for value in vars(protocol).values() if isinstance(value, Close)]
    assert closes
    for close in closes:
        assert len(close.reason.encode()) <= 123


def modules() -> list[str]:
    """Return the names of the engine's modules."""
    return [module.name for module in walk_packages(realtime.__path__, f"{realtime.__name__}.")]


@pytest.mark.hostile(79)
@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
async def test_the_system_clock_may_jump(monkeypatch: pytest.MonkeyPatch, jump_s: int) -> None:
    monkeypatch.setattr(budget, "monotonic", lambda: 1_000.0)
    async with run_service(make_settings(max_messages_per_s=1, max_burst_s=30)) as live:
        client = await live.connect()
        before = [(await client.ask(type="ping"))["type"] for _ in range(20)]
        now = time.time
        for module in [time, *map(import_module, modules())]:
            if getattr(module, "time", None) is now:
                monkeypatch.setattr(module, "time", lambda: now() + jump_s)
        after = [(await client.ask(type="ping"))["type"] for _ in range(25)]
        assert {*before, after[0]} == {"pong"}
        assert after[-1] == "error"
        assert len(live.service.manager) == 1


@pytest.mark.hostile(54, 80)
async def test_health_checks_are_answered_during_an_attack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "monotonic", lambda: 1_000.0)
    settings = make_settings(max_messages_per_s=50, max_burst_s=2)
    async with run_service(settings) as live, asyncio.timeout(DEADLINE_S):
        stuck = await live.connect()
        async with raw_client(await live.options()) as flood, live.http() as http:
            await flood.upgraded()
            floods = asyncio.create_task(flood.close_code())
            while not floods.done():
                flood.send(masked(b'{"type": "ping"}', TEXT) * 20)
                assert (await http.get("/livez")).status_code == httpx.codes.OK
                assert (await stuck.ask(type="ping"))["type"] in {"pong", "error"}
            assert await floods == FLOOD.code
        await wait_until(lambda: len(live.service.manager) == 1)
