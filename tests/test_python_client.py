"""The Python client, against a service that is cut off, freezes, drains and dies."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidURI
from websockets.http11 import Request, Response

from proof.overlay import JINJA

from . import faulty_server
from .checks.service import Service, running
from .combination import COMBINATIONS, DEFAULT, TEMPLATE, Combination
from .conftest import Baker
from .documents import blocks_of
from .invalid_frames import INVALID_ANSWERS, INVALID_FRAMES, INVALID_WELCOMES
from .numbers_room import ROOM, Entry, Numbers, check, numbers, spoil
from .process import check_output, environment
from .project import PROJECT_DIRECTORY
from .proxy import Proxy
from .venv import venv_bin

CLIENTS = "docs/clients.md"
CUTS = 1_000
DEADLINE_S = 60.0
SECRETS = {"JWT_SECRET": "jwt-secret" * 4, "BACKEND_KEY": "backend-key" * 3}
HASTE = {
    "MAX_HANDSHAKES_PER_S": "100000",
    "MAX_HANDSHAKES_PER_S_PER_ADDRESS": "100000",
    "MAX_MESSAGES_PER_S": "100000",
    "MAX_BYTES_PER_S": "100000000",
    "MAX_MESSAGES_PER_S_PER_USER": "100000",
    "MAX_BYTES_PER_S_PER_USER": "100000000",
    "MAX_BYTES_PER_S_PER_TARGET": "100000000",
    "HEARTBEAT_INTERVAL_S": "0.5",
    "HEARTBEAT_TIMEOUT_S": "5",
}
WELCOME: dict[str, Any] = {
    "type": "welcome",
    "protocol": 1,
    "connection": "1",
    "user": "alice",
    "heartbeat": None,
    "limits": {"message_bytes": 65_536, "messages_per_s": 100, "burst_s": 5},
    "expires_at": None,
}


@pytest.fixture(scope="module")
def client(baked: Baker) -> Iterator[ModuleType]:
    """Import the client of a project, which needs nothing else of it."""
    root = str(baked(DEFAULT).root)
    sys.path.insert(0, root)
    try:
        module = import_module("client")
        status = import_module("client.status")
        status.SHORTEST_PAUSE_S = status.LONGEST_PAUSE_S = 0.001  # type: ignore[attr-defined]
        yield module
    finally:
        sys.path.remove(root)
        for name in [name for name in sys.modules if name.partition(".")[0] == "client"]:
            del sys.modules[name]


class Follower:
    """A member of the room that records its messages and states."""

    def __init__(self, connect: Callable[..., Any], url: str, token: str, room: Numbers) -> None:
        self.entries: list[Entry] = []
        self.codes: list[int] = []
        self.recovered = 0
        self._connect = connect
        self._url = url
        self._token = token
        self._room = room

    async def follow(self) -> None:
        """Stay in the room until cancelled."""
        async with (
            self._connect(self._url, self._token, on_status=self._note, on_frame=self._count) as ws,
            ws.room(ROOM, state=self._load) as room,
        ):
            async for message in room:
                self.entries.append(("message", message.data))

    async def _load(self) -> None:
        await asyncio.sleep(0)
        self.entries.append(("state", self._room.last))

    def _note(self, status: Any) -> None:
        if status.state == "offline":
            self.codes.append(status.code)

    def _count(self, direction: str, text: str) -> None:
        if direction == "in" and json.loads(text).get("recovered"):
            self.recovered += 1

    async def has(self, number: int) -> None:
        """Wait for a number."""
        async with asyncio.timeout(DEADLINE_S):
            while max((number for _, number in self.entries), default=0) < number:
                await asyncio.sleep(0.01)

    async def is_offline(self, code: int) -> None:
        """Wait until the connection was lost with this code."""
        async with asyncio.timeout(DEADLINE_S):
            while code not in self.codes:
                await asyncio.sleep(0.01)


async def with_member(follower: Follower, act: Coroutine[Any, Any, None]) -> None:
    """Run ``act`` while the follower is in the room."""
    following = asyncio.create_task(follower.follow())
    acting = asyncio.create_task(act)
    await asyncio.wait({following, acting}, return_when=asyncio.FIRST_COMPLETED)
    if following.done():
        acting.cancel()
        following.result()
    following.cancel()
    await asyncio.wait({following})
    acting.result()


@pytest.mark.parametrize("names", [["cut"], ["drains", "dies", "stays"]], ids=["cuts", "deaths"])
def test_nothing_is_lost_silently(
    names: list[str], client: ModuleType, baked: Baker, tmp_path: Path
) -> None:
    with Proxy().running() as proxy, numbers() as room, ExitStack() as stack:
        services = [
            Service(baked(DEFAULT).copy(tmp_path / name), **(HASTE | SECRETS)) for name in names
        ]
        for service in services:
            stack.callback(service.end)
            service.wait_until_ready()
        proxy.target = int(services[0].port)
        header = services[0].connect_options("alice")["headers"]["Authorization"]
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        follower = Follower(client.connect, url, header.removeprefix("Bearer "), room)
        act = cut_often if names == ["cut"] else freeze_and_replace
        asyncio.run(with_member(follower, act(follower, proxy, room, services)))
        check(follower.entries, room.last)


async def cut_often(
    follower: Follower, proxy: Proxy, room: Numbers, services: list[Service]
) -> None:
    """Cut connections, and compare with what was published meanwhile."""

    def cut() -> None:
        with room.published(services[0]):
            spoil(proxy, room, CUTS)

    await asyncio.to_thread(cut)
    await follower.has(room.last)
    assert [kind for kind, _ in follower.entries].count("state") >= 5
    assert follower.recovered  # other joins had from the history what was missed


async def freeze_and_replace(
    follower: Follower, proxy: Proxy, room: Numbers, services: list[Service]
) -> None:
    """Freeze the line; then let one service drain and the next one die."""
    await publish_five(room, services[0])
    await follower.has(room.last)
    follower.codes.clear()
    proxy.freeze()
    await follower.is_offline(1006)
    proxy.thaw()
    ends = [(services[0].stop, 1012), (services[1].end, 1006)]
    for service, (end, code) in zip(services[1:], ends, strict=True):
        await publish_five(room, services[services.index(service) - 1])
        await follower.has(room.last)
        proxy.target = int(service.port)
        follower.codes.clear()
        await asyncio.to_thread(end)
        await follower.is_offline(code)
    await publish_five(room, services[-1])
    await follower.has(room.last)


async def publish_five(room: Numbers, service: Service) -> None:
    """Publish five numbers."""

    def publish() -> None:
        with service.client("bob") as bob:
            bob.ask(type="join", room=ROOM)
            room.publish(bob, 5)

    await asyncio.to_thread(publish)


def test_no_token_at_a_refresh_ends_the_connection(
    client: ModuleType, baked: Baker, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"{client.__name__}.connection")
    later = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + 3600)
    monkeypatch.setattr(module, "time", later)
    monkeypatch.setattr(module, "SHORTEST_REFRESH_S", 0.0)
    states: list[str] = []

    async def follow(url: str, tokens: list[str | None]) -> None:
        ws = client.connect(
            url, lambda: tokens.pop(0), on_status=lambda status: states.append(status.state)
        )
        async with asyncio.timeout(DEADLINE_S), ws:
            with pytest.raises(client.Ended, match="4500 signed out"):
                await anext(ws)

    with running(baked(DEFAULT)) as service:
        options = service.connect_options("alice")
        token = options["headers"]["Authorization"].removeprefix("Bearer ")
        asyncio.run(follow(options["uri"], [token, None]))
    assert states == ["connecting", "online", "ended"]


def test_a_wrong_url_is_refused_at_once(client: ModuleType) -> None:
    with pytest.raises(InvalidURI):
        client.connect("127.0.0.1:8000/ws")


def test_a_refusal_that_no_retry_can_help_ends_the_connection(client: ModuleType) -> None:
    async def connect(url: str) -> None:
        async with asyncio.timeout(DEADLINE_S), client.connect(url):
            pass

    with (
        faulty_server.running(faulty_server.echo, refuse=True) as port,
        pytest.raises(client.Ended, match="403 the origin is not allowed"),
    ):
        asyncio.run(connect(f"ws://127.0.0.1:{port}/ws"))


def test_an_answer_of_a_web_page_ends_the_connection(client: ModuleType) -> None:
    async def handler(_: ServerConnection) -> None:
        raise AssertionError

    def answer(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(HTTPStatus.OK, "a page")

    async def connect() -> None:
        async with serve(handler, "127.0.0.1", 0, process_request=answer) as server:
            port = server.sockets[0].getsockname()[1]
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(client.Ended, match="200 OK"):
                    await client.connect(f"ws://127.0.0.1:{port}/ws").__aenter__()

    asyncio.run(connect())


def test_a_client_that_was_online_repeats_a_refused_handshake(client: ModuleType) -> None:
    answers = [None, HTTPStatus.NOT_FOUND, None]
    reasons: list[str] = []

    def answer(connection: ServerConnection, _: Request) -> Response | None:
        status = answers.pop(0)
        return None if status is None else connection.respond(status, "no\n")

    async def handler(connection: ServerConnection) -> None:
        await connection.send(json.dumps(WELCOME))
        if answers:
            await connection.close(1012)
        await connection.wait_closed()

    async def connect() -> None:
        async with serve(handler, "127.0.0.1", 0, process_request=answer) as server:
            port = server.sockets[0].getsockname()[1]
            ws = client.connect(
                f"ws://127.0.0.1:{port}/ws", on_status=lambda status: reasons.append(status.reason)
            )
            async with asyncio.timeout(DEADLINE_S), ws:
                await ws._wait_until(lambda: not answers and ws.welcome is not None)

    asyncio.run(connect())
    assert "the server refuses the handshake: 404 Not Found" in reasons


Script = Callable[[ServerConnection], Awaitable[object]]
"""What a server does on one connection after its welcome."""


def scripted(
    connect: Callable[..., Any],
    act: Callable[[Any], Awaitable[object]],
    *scripts: Script,
    token: Any = "",
    **terms: object,
) -> None:
    """Do something with a client, each connection of which is served by the next script."""
    remaining = iter(scripts)

    async def handler(connection: ServerConnection) -> None:
        await connection.send(json.dumps(WELCOME | terms))
        with suppress(ConnectionClosed):
            await next(remaining)(connection)
        await connection.wait_closed()

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S), serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}/ws", token) as ws:
                await act(ws)

    asyncio.run(run())


async def answer(connection: ServerConnection, **fields: object) -> dict[str, Any]:
    """Receive a command, answer it, and return it."""
    command: dict[str, Any] = json.loads(await connection.recv())
    await connection.send(json.dumps({"type": "ok", "id": command["id"], **fields}))
    return command


async def send(connection: ServerConnection, *data: object) -> None:
    """Send messages to the user."""
    for each in data:
        await connection.send(json.dumps({"type": "message", "from": "bob", "data": each}))


def test_each_attempt_has_a_fresh_token(client: ModuleType) -> None:
    sent: list[str] = []

    def closing(code: int) -> Script:
        async def script(connection: ServerConnection) -> None:
            assert connection.request is not None
            sent.append(connection.request.headers["Authorization"])
            await connection.close(code)

        return script

    async def follow(ws: Any) -> None:
        with pytest.raises(client.Ended, match="4503"):
            await anext(ws)

    tokens = iter(["first", "second", "third"])
    scripts = [closing(code) for code in (4005, 1012, 4503)]
    scripted(client.connect, follow, *scripts, token=lambda: next(tokens))
    assert sent == ["Bearer first", "Bearer second", "Bearer third"]


def test_a_token_is_replaced_before_it_expires(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"{client.__name__}.connection")
    before = SimpleNamespace(monotonic=time.monotonic, time=lambda: 1_000.0)
    monkeypatch.setattr(module, "time", before)
    monkeypatch.setattr(module, "SHORTEST_REFRESH_S", 0.0)
    commands: list[dict[str, Any]] = []

    async def renew(connection: ServerConnection) -> None:
        commands.append(await answer(connection, expires_at=1_000.02))
        commands.append(await answer(connection, expires_at=None))
        await send(connection, "still here")

    async def follow(ws: Any) -> None:
        assert (await anext(ws))["data"] == "still here"

    tokens = iter(["first", "second", "third"])
    scripted(client.connect, follow, renew, token=lambda: next(tokens), expires_at=1_000.02)
    sent = [(command["type"], command["token"]) for command in commands]
    assert sent == [("refresh", "second"), ("refresh", "third")]


def test_a_request_without_an_answer_fails_in_time(client: ModuleType) -> None:
    async def ask(ws: Any) -> None:
        with pytest.raises(client.RequestError) as failure:
            await ws.request("send", to="bob", timeout_s=0.01)
        assert (failure.value.code, failure.value.retry) == ("timeout", True)

    scripted(client.connect, ask, ServerConnection.wait_closed)


def test_a_request_fails_with_its_connection_and_may_be_repeated(client: ModuleType) -> None:
    async def drop(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(1012)

    async def ask(ws: Any) -> None:
        with pytest.raises(client.RequestError) as failure:
            await ws.request("send", to="bob")
        assert (failure.value.code, failure.value.retry) == ("disconnected", True)
        assert (await ws.request("send", to="bob"))["type"] == "ok"

    scripted(client.connect, ask, drop, answer)


def test_a_request_that_is_too_large_is_not_sent(client: ModuleType) -> None:
    commands: list[dict[str, Any]] = []

    async def keep(connection: ServerConnection) -> None:
        commands.append(await answer(connection))

    async def ask(ws: Any) -> None:
        with pytest.raises(client.RequestError) as failure:
            await ws.request("send", to="bob", data="x" * 100)
        assert (failure.value.code, failure.value.retry) == ("too_large", False)
        await ws.ping()

    scripted(client.connect, ask, keep, limits=WELCOME["limits"] | {"message_bytes": 100})
    assert [command["type"] for command in commands] == ["ping"]


def test_a_state_that_cannot_be_loaded_is_loaded_at_the_next_iteration(client: ModuleType) -> None:
    loads: list[str] = []

    async def load() -> None:
        await asyncio.sleep(0)
        loads.append("load")
        if len(loads) == 1:
            raise LookupError

    async def join(connection: ServerConnection) -> None:
        await answer(connection, epoch="e", offset=0, recovered=None, replayed=0)
        message = {"type": "message", "room": "tea", "from": "bob", "data": "hi", "offset": 1}
        await connection.send(json.dumps(message))

    async def follow(ws: Any) -> None:
        async with ws.room("tea", state=load) as room:
            with pytest.raises(LookupError):
                await anext(room)
            assert (await anext(room)).data == "hi"

    scripted(client.connect, follow, join)
    assert loads == ["load", "load"]


def test_too_many_unread_frames_are_replaced_by_one(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module(f"{client.__name__}.inbox"), "MAX_UNREAD", 2)

    async def flood(connection: ServerConnection) -> None:
        await send(connection, *range(5))
        await answer(connection)
        await send(connection, "next")

    async def read(ws: Any) -> None:
        await ws.ping()  # what was sent before is there now
        assert await anext(ws) == {"type": "resync", "room": None}
        assert (await anext(ws))["data"] == "next"

    scripted(client.connect, read, flood)


def test_requests_within_the_loop_are_answered(client: ModuleType) -> None:
    read: list[object] = []

    async def interrupt(connection: ServerConnection) -> None:
        for number in range(3):
            await send(connection, number, "meanwhile")
            await answer(connection)

    async def follow(ws: Any) -> None:
        async for frame in ws:
            read.append(frame["data"])
            if frame["data"] != "meanwhile":
                await ws.request("send", to="bob", data=frame["data"])
            elif len(read) == 6:
                break

    scripted(client.connect, follow, interrupt)
    assert read == [0, "meanwhile", 1, "meanwhile", 2, "meanwhile"]


def test_a_command_as_in_javascript_is_a_type_error(client: ModuleType) -> None:
    ws = client.connect("ws://127.0.0.1:1/ws")
    with pytest.raises(TypeError, match="the first argument is the type"):
        asyncio.run(ws.request({"type": "ping"}))


async def be_cancelled() -> None:
    raise asyncio.CancelledError


async def time_out() -> None:
    raise TimeoutError


@pytest.mark.parametrize("fail", [time_out, be_cancelled])
def test_a_token_function_that_fails_is_called_again(
    client: ModuleType, fail: Callable[[], Awaitable[None]]
) -> None:
    calls: list[int] = []

    async def token() -> str | None:
        calls.append(len(calls))
        if len(calls) == 1:
            await fail()
        return None

    async def connect() -> None:
        async with asyncio.timeout(DEADLINE_S), client.connect("ws://127.0.0.1:1/ws", token):
            pass

    with pytest.raises(client.Ended, match="signed out"):
        asyncio.run(connect())
    assert calls == [0, 1]


@pytest.mark.parametrize("then", ["answered", "closed"])
def test_a_token_function_may_take_longer_than_an_attempt(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(import_module(f"{client.__name__}.connection"), "TIMEOUT_S", 0.01)
    calls: list[asyncio.Future[None]] = []

    async def sign_in() -> None:
        calls.append(asyncio.get_running_loop().create_future())
        await calls[-1]

    async def connect() -> None:
        ws = client.connect("ws://127.0.0.1:1/ws", sign_in)
        entering = asyncio.create_task(ws.__aenter__())
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(client.RequestError, match="timeout"):
                await ws.request("ping", timeout_s=0.1)  # ten attempts later
            assert not calls[0].done()
            if then == "answered":
                calls[0].set_result(None)
            else:
                await ws.close()
            end = "4500 signed out" if then == "answered" else "1000 closed by the client"
            with pytest.raises(client.Ended, match=end):
                await entering
        assert len(calls) == 1

    asyncio.run(connect())


@pytest.fixture
def _at_once(client: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rooms join again without a pause."""
    room = import_module(f"{client.__name__}.rooms").Room
    monkeypatch.setattr(room, "_later", lambda room, pause_s, act: act())


MESSAGE = {"type": "message", "room": "tea", "from": "bob", "data": "hi"}


class Commands:
    """A fake connection, which records the commands for a test to answer."""

    def __init__(self, client: ModuleType, **options: Any) -> None:
        self.welcome: dict[str, Any] | None = WELCOME
        self.commands: list[dict[str, Any]] = []
        module = import_module(f"{client.__name__}.rooms")
        options = {"events": False, "last": 0, "info": None} | options
        self.make_room: Callable[[], Any] = lambda: module.Room(self, "tea", None, **options)
        self.rooms = {"tea": self.make_room()}
        self.left: dict[str, Any] = {}
        self.error: Exception | None = None
        self._settle: list[Callable[[dict[str, Any]], None]] = []

    def ask(self, command: dict[str, Any], on_answer: Callable[[dict[str, Any]], None]) -> None:
        """Keep a command."""
        self.commands.append(command)
        self._settle.append(on_answer)

    def send_waiting(self) -> None:
        """Let rooms join at once."""
        for room in list(self.rooms.values()):
            if room.join_stage == "due":
                room.join()

    def refuse_requests(self, room: str, answer: dict[str, Any]) -> None:
        """Do nothing: no request waits."""

    async def request(self, command: str, /, **fields: Any) -> None:
        """Keep a command, whose answer does not matter."""
        self.commands.append({"type": command, **fields})

    def types(self) -> list[str]:
        """Return the types of the commands."""
        return [command["type"] for command in self.commands]

    def answer(self, **fields: Any) -> None:
        """Answer the oldest command that is unanswered."""
        ok = {"type": "ok", "epoch": "e", "offset": 0, "recovered": None, "replayed": 0}
        self._settle.pop(0)(ok | fields)

    def refuse(self) -> None:
        """Refuse the oldest command that is unanswered, for now."""
        self.answer(**RATE_LIMITED)

    async def sent(self, number: int) -> None:
        """Wait for this number of commands."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.commands) < number:
                await asyncio.sleep(0.001)


@pytest.mark.usefixtures("_at_once")
def test_messages_held_while_a_join_fails_are_yielded(client: ModuleType) -> None:
    connection = Commands(client)
    room = connection.rooms["tea"]
    room.join()
    connection.answer()
    room.receive({"type": "resync", "room": "tea"})
    room.receive(MESSAGE | {"offset": 1})
    connection.refuse()
    connection.answer(offset=1, recovered=True)
    assert [message.data for message in room._unread] == ["hi"]


@pytest.mark.usefixtures("_at_once")
def test_a_refusal_after_a_resync_leaves_the_room_that_the_first_join_may_have_entered(
    client: ModuleType,
) -> None:
    connection = Commands(client)
    room = connection.rooms["tea"]
    room.join()
    room.receive({"type": "resync", "room": "tea"})
    connection.answer()  # of the join before the resync, so it is ignored
    connection.answer(type="error", code="forbidden", message="", retry=False)
    assert connection.types() == ["join", "join", "leave"]


def test_a_room_that_joins_again_goes_behind_those_that_wait(client: ModuleType) -> None:
    connection = Commands(client)
    connection.rooms["later"] = connection.make_room()
    connection.rooms["tea"]._join_in_turn()
    assert list(connection.rooms) == ["later", "tea"]


def test_messages_of_a_former_membership_do_not_precede_replayed_ones(
    client: ModuleType,
) -> None:
    connection = Commands(client, last=2)
    room = connection.rooms["tea"]
    room.join()
    room.receive(MESSAGE | {"offset": 10})
    connection.answer(offset=10, replayed=2)
    for offset in (9, 10):
        room.receive(MESSAGE | {"offset": offset})
    assert [each.offset for each in room._unread] == [9, 10]


def test_an_entry_that_is_cancelled_leaves_the_room(client: ModuleType) -> None:
    connection = Commands(client)

    async def enter() -> None:
        room = connection.rooms.pop("tea")
        entering = asyncio.create_task(room.__aenter__())
        await connection.sent(1)
        entering.cancel()
        await asyncio.wait([entering])
        assert entering.cancelled()
        assert connection.rooms == {}

    asyncio.run(enter())
    assert connection.types() == ["join", "leave"]


@pytest.mark.parametrize("has_state", [True, False])
def test_messages_dropped_before_a_join_is_answered_are_a_gap(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch, *, has_state: bool
) -> None:
    monkeypatch.setattr(import_module(f"{client.__name__}.rooms"), "MAX_UNREAD", 2)
    connection = Commands(client)
    loads: list[str] = []
    room = connection.rooms["tea"]

    async def load() -> None:
        await asyncio.sleep(0)
        loads.append("load")

    async def read() -> list[object]:
        room.join()
        connection.answer()
        room._state = load if has_state else None
        room.interrupt()
        room.join()
        for offset in (1, 2, 3, 4):
            room.receive(MESSAGE | {"offset": offset})
        connection.answer(offset=4, recovered=True)
        return [(await anext(room)).offset for _ in range(1 if has_state else 2)]

    assert asyncio.run(read()) == ([4] if has_state else [None, 4])
    assert len(loads) == has_state


def test_events_among_too_many_unread_messages_are_not_lost_silently(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module(f"{client.__name__}.inbox"), "MAX_UNREAD", 2)
    connection = Commands(client, events=True)
    room = connection.rooms["tea"]
    room.join()
    connection.answer()
    room.receive({"type": "joined", "room": "tea", "user": "carol", "info": None})
    for offset in (1, 2):
        room.receive(MESSAGE | {"offset": offset})
    assert [message.type for message in room._unread] == ["gap", "rejoined"]


def test_a_room_is_joined_some_time_after_a_resync(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"{client.__name__}.rooms")
    waiting: list[tuple[float, Callable[[], None]]] = []
    monkeypatch.setattr(module.Room, "_later", lambda room, *later: waiting.append(later))
    monkeypatch.setattr(module.random, "uniform", lambda least, most: (least + most) / 2)
    connection = Commands(client)
    connection.rooms["tea"].receive({"type": "resync", "room": "tea"})
    assert connection.commands == []
    ((pause_s, join),) = waiting
    assert pause_s == module.RESYNC_S / 2
    join()
    assert connection.types() == ["join"]


def test_an_eviction_during_a_join_is_not_taken_for_a_refusal(client: ModuleType) -> None:
    connection = Commands(client)
    room = connection.rooms["tea"]
    room.join()
    room.receive({"type": "evicted", "room": "tea", "reason": "spam"})
    connection.answer(type="error", code="forbidden", message="", retry=False)
    assert str(room.error) == "evicted: spam"


def test_an_answer_ends_the_timer_of_its_request(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        start = loop.call_later

        def call_later(*how: Any) -> asyncio.TimerHandle:
            timers.append(start(*how))
            return timers[-1]

        monkeypatch.setattr(loop, "call_later", call_later)
        ws = client.connect("ws://127.0.0.1:1/ws")
        ws.welcome = WELCOME
        ws.ask({"type": "ping"}, lambda answer: None)
        ws._receive({"type": "pong", "id": "1"})
        assert [timer.cancelled() for timer in timers] == [True]

    asyncio.run(ask())


def test_an_info_does_not_overtake_the_join_of_its_room(client: ModuleType) -> None:
    connection = Commands(client)
    room = connection.rooms["tea"]

    async def change() -> None:
        room.join()
        connection.answer()
        room.interrupt()
        room.join()
        connection.refuse()
        await room.set_info("paused")
        await connection.sent(3)
        await room.set_info("unanswered")
        assert len(connection.commands) == 3
        connection.answer(recovered=True)
        await room.set_info("joined")

    asyncio.run(change())
    infos = [(command.get("info"), "since" in command) for command in connection.commands[1:]]
    assert infos == [(None, True), ("paused", True), ("unanswered", False), ("joined", False)]


@pytest.mark.parametrize("then", ["nothing", "a new entry", "a lost connection"])
def test_a_leave_that_is_refused_for_now_is_repeated(client: ModuleType, then: str) -> None:
    connection = Commands(client)

    async def leave() -> None:
        room = connection.rooms["tea"]
        room.join()
        connection.answer()
        await room.__aexit__()
        connection.refuse()
        if then == "a new entry":
            entering = asyncio.create_task(connection.make_room().__aenter__())
            await connection.sent(3)
            connection.answer()
            await entering
        elif then == "a lost connection":
            room.interrupt()
        else:
            await connection.sent(3)
            connection.answer()
        await asyncio.sleep(0.1)

    asyncio.run(leave())
    expected = {"nothing": ["leave", "leave"], "a new entry": ["leave", "join"]}
    assert connection.types() == ["join", *expected.get(then, ["leave"])]


@pytest.mark.usefixtures("_at_once")
def test_a_room_with_events_tells_that_it_was_joined_again(client: ModuleType) -> None:
    for events in (True, False):
        connection = Commands(client, events=events)
        room = connection.rooms["tea"]
        room.join()
        connection.answer()
        assert not room._unread
        room.receive({"type": "resync", "room": "tea"})
        connection.answer(recovered=True)
        assert [message.type for message in room._unread] == ["rejoined"] * events


CHAT = """
. ./.env
rooms=http://127.0.0.1:$PORT/rooms
ask() { curl --silent --fail -H "Authorization: Bearer $BACKEND_KEY" "$@"; }
until_in() {
  for _ in $(seq 900); do
    [ "$(grep -c "$1" chat.log)" -ge "${2:-1}" ] && return
    sleep 0.1
  done
  exit 1
}
touch chat.log
{
  echo /join tea
  until_in "in tea: alice"
  echo hello
  until_in 'tea alice: "hello"'
  ask $rooms/tea/evict -d '{"user": "alice", "reason": "spam"}' >&2
  until_in "! tea: evicted: spam"
  echo /join tea
  until_in "in tea: alice" 2
  until_in 'tea alice: "hello"' 2
  ask http://127.0.0.1:$PORT/disconnect -d '{"user": "alice"}' >&2
  until_in "ended: 4503"
  echo
} | PYTHONUNBUFFERED=1 "$PYTHON" -m dev.client alice >>chat.log 2>&1
cat chat.log
"""


SHOWING = r"""
from types import SimpleNamespace
from client import Status
from dev.client import as_json, show_status
print(as_json(["\x9b2J", "\u202e", "\x1b", "ü"]))
show_status(SimpleNamespace(welcome=None), Status("ended", 1, 4000, "\x1b[2J"))
"""


def test_the_chat_shows_no_character_that_a_terminal_obeys(baked: Baker) -> None:
    project = baked(DEFAULT)
    shown = check_output([venv_bin(project) / "python", "-B", "-c", SHOWING], project.root)
    assert shown.splitlines() == [
        r'["\u009b2J", "\u202e", "\u001b", "ü"]',
        r"* ended: 4000 \u001b[2J",
    ]


NO_PRESENCE = """
    def room_options(self, service: object, room: str) -> realtime.RoomOptions:
        return realtime.RoomOptions(presence=False)
"""


def test_the_chat_enters_a_room_without_presence(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    policy = project.read("app/policy.py")
    project.write("app/policy.py", f"from app import realtime\n{policy.rstrip()}\n{NO_PRESENCE}")
    with running(project) as service:
        python = venv_bin(project) / "python"
        shown = service.shell(f"echo /join hall | {python} -m dev.client alice")
    assert "* in hall; this room has no presence" in shown
    assert "forbidden" not in shown


def test_the_chat_goes_on_after_an_eviction(baked: Baker) -> None:
    project = baked(DEFAULT)
    with running(project) as service:
        shown = service.shell(f"PYTHON={venv_bin(project) / 'python'}\n{CHAT}")
    assert shown.count("* in tea: alice") == 2
    assert shown.count('tea alice: "hello"') == 2  # once when it came, once from the history
    assert "never retrieved" not in shown
    assert "Traceback" not in shown


TYPED = """
/leave
/leave hall
/who
/join
/to nobody hi
/join hall
/join hall2
/leave hall
/leave hall
/leave
/join hall
"""
SHOWN = """
! you are not in a room
! you are not in hall
! you are not in a room
! bad_room: a room needs a name
! nobody is not connected
* in hall: alice
* in hall2: alice
* your lines go to hall2
! you are not in hall
* your lines go to everybody
* in hall: alice
"""


def test_the_chat_names_the_room_that_a_line_is_for(baked: Baker) -> None:
    project = baked(DEFAULT)
    with running(project) as service:
        chat = f'echo "{TYPED}" | {venv_bin(project) / "python"} -m dev.client alice'
        shown = service.shell(chat).splitlines()
    assert [line for line in shown if line.startswith(("!", "* in", "* your"))] == SHOWN.split(
        "\n"
    )[1:-1]


def test_the_chat_asks_once_whether_the_service_is_running(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    python = venv_bin(project) / "python"
    check_output([python, "-m", "dev.env"], project.root)
    shown = ""
    with subprocess.Popen(
        [python, "-u", "-m", "dev.client", "alice"],
        cwd=project.root,
        env=environment(PORT="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as chat:
        deadline = Timer(DEADLINE_S, chat.kill)
        deadline.start()
        assert chat.stdout is not None
        for line in chat.stdout:
            shown += line
            if shown.count("offline: 1006 ") > 2:
                break
        deadline.cancel()
        chat.kill()
    assert shown.count("offline: 1006 ") > 2
    assert shown.count("the service does not answer; is it running? (make run)") == 1


def test_a_late_answer_to_a_join_is_given_to_nobody(client: ModuleType) -> None:
    ws = client.connect("ws://127.0.0.1:1/ws")
    ws.rooms["tea"] = room = ws.room("tea")
    ws._receive({"type": "ok", "id": "4", "room": "tea", "offset": 1})
    assert not room._unread
    assert not ws._unread


def test_it_closes_with_1000_and_lets_itself_be_cancelled(client: ModuleType) -> None:
    codes: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.send(json.dumps(WELCOME))
        await connection.wait_closed()
        codes.append(connection.close_code)

    async def connect(url: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            async with client.connect(url):
                pass
            ws = await client.connect(url).__aenter__()
            closing = asyncio.create_task(ws.close())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            assert closing.cancelled()
            assert ws.status.state == "ended"
            await asyncio.wait([ws._running])

    with faulty_server.running(handler) as port:
        asyncio.run(connect(f"ws://127.0.0.1:{port}/ws"))
    assert codes == [1000, 1000]


def test_an_eviction_ends_a_room_which_is_not_joined_again(client: ModuleType) -> None:
    connection = Commands(client, events=True, info={"name": "Alice"})
    room = connection.rooms["tea"]

    async def follow() -> None:
        room.join()
        assert connection.commands[0]["info"] == {"name": "Alice"}
        room.receive({"type": "updated", "room": "tea", "user": "bob", "info": 1})
        room.receive({"type": "evicted", "room": "tea", "reason": "spam"})
        message = await anext(room)
        assert (message.type, message.user, message.data) == ("updated", "bob", 1)
        with pytest.raises(client.RequestError) as failure:
            await anext(room)
        assert (failure.value.code, str(failure.value)) == ("evicted", "evicted: spam")
        assert connection.rooms == {}

    asyncio.run(follow())


def test_frames_of_the_team_are_yielded_in_their_room(client: ModuleType) -> None:
    room = Commands(client).rooms["tea"]
    frame = {"type": "typing", "room": "tea", "offset": 1}
    room.receive({"type": "joined", "room": "tea", "user": "bob"})  # without events, not yielded
    room.receive(frame)
    assert [(each.type, each.user, each.data) for each in room._unread] == [("typing", None, frame)]


OK = {"type": "ok", "epoch": "e", "offset": 0, "recovered": None, "replayed": 0}


class RoomServer:
    """A server that answers every command.

    ``refusals`` has answers by the type and room of a command; each is given once, before others.
    """

    def __init__(self, **joined: object) -> None:
        self.commands: list[dict[str, Any]] = []
        self.refusals: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._joined = joined
        self.updates: list[dict[str, Any]] = []
        """Frames to send before the answer to the next join that changes an info."""

    def types(self) -> list[str]:
        """Return the types of the commands."""
        return [command["type"] for command in self.commands]

    async def __call__(self, connection: ServerConnection) -> None:
        """Serve one connection. The ``frames`` in a command are sent before its answer."""
        async for text in connection:
            command = json.loads(text)
            self.commands.append(command)
            for frame in command.get("frames", []):
                await connection.send(json.dumps(frame))
            if command["type"] == "join" and self.types().count("join") > 1:
                while self.updates:
                    await connection.send(json.dumps(self.updates.pop()))
            if command["type"] == "leave":
                await connection.send(json.dumps(MESSAGE | {"data": "in flight", "offset": 1}))
            recovered = True if "since" in command else None
            joined = self._joined if command["type"] == "join" else {}
            answer = (
                REFUSED if command.get("info") == "bad" else OK | {"recovered": recovered} | joined
            )
            if refusals := self.refusals.get((command["type"], command.get("room", ""))):
                answer = refusals.pop(0)
            await connection.send(json.dumps(answer | {"id": command["id"]}))
            if command["type"] == "end":
                await connection.close(1012)


EVICTED = {"type": "evicted", "room": "tea", "reason": None}
REFUSED = {"type": "error", "code": "forbidden", "message": "no", "retry": False}
RATE_LIMITED = {"type": "error", "code": "rate_limited", "message": "slow", "retry": True}
UNAVAILABLE = {"type": "error", "code": "unavailable", "message": "later", "retry": True}
ONE_AT_ONCE = WELCOME["limits"] | {"messages_per_s": 1}
"""Limits with which a client joins one room after the other."""


BAD_NAME = {"type": "error", "code": "bad_room", "message": "no", "retry": False}


@pytest.mark.parametrize("name", ["", None, 5, ["tea"], {}])
def test_a_room_without_a_name_is_refused_at_once(client: ModuleType, name: object) -> None:
    server = RoomServer()

    async def enter(ws: Any) -> None:
        with pytest.raises(client.RequestError) as refusal:
            ws.room(name)
        assert (refusal.value.code, refusal.value.retry) == ("bad_room", False)
        await ws.ping()

    scripted(client.connect, enter, server)
    assert server.types() == ["ping"]


def test_a_frame_without_a_room_is_of_no_room(client: ModuleType) -> None:
    ws = client.connect("ws://127.0.0.1:1/ws")
    ws.rooms[""] = ws.left[""] = object()
    ws._receive(frame := {"type": "message", "from": "bob", "data": 1})
    assert list(ws._unread) == [frame]


@pytest.mark.parametrize("code", ["bad_room", "bad_request", "forbidden"])
def test_a_refused_room_sends_one_frame(client: ModuleType, code: str) -> None:
    server = RoomServer()
    server.refusals = {("join", "a b"): [BAD_NAME | {"code": code}]}
    refusals: list[Any] = []

    async def enter(ws: Any) -> None:
        room = ws.room("a b")
        entering = asyncio.create_task(room.__aenter__())
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(act()) for act in (lambda: room.publish(1), room.presence)]
        refusals.extend(await asyncio.gather(entering, *waiting, return_exceptions=True))
        await ws.ping()

    scripted(client.connect, enter, server)
    assert server.types() == ["join", "ping"]
    assert [refusal.code for refusal in refusals] == [code] * 3


@pytest.mark.parametrize("first", ["joined", "unavailable"])
def test_a_room_that_may_be_joined_is_left_when_a_join_is_refused(
    client: ModuleType, first: str
) -> None:
    connection = Commands(client)
    room = connection.rooms["tea"]
    room._later = lambda pause_s, act: act()
    room.join()
    if first == "joined":
        connection.answer()
        room.join()
    else:
        connection.answer(**UNAVAILABLE)
    connection.answer(**BAD_NAME | {"code": "bad_request"})
    assert connection.types() == ["join", "join", "leave"]


@pytest.mark.parametrize("end", ["refused", "left"])
def test_a_room_that_was_only_refused_is_not_left(client: ModuleType, end: str) -> None:
    connection = Commands(client)
    room = connection.rooms["tea"]
    room._later = lambda pause_s, act: act() if end == "refused" else None
    room.join()
    connection.refuse()
    if end == "refused":
        connection.answer(**BAD_NAME)
    else:
        asyncio.run(room.__aexit__())
    assert set(connection.types()) == {"join"}


def test_ten_rooms_with_invalid_names_do_not_end_the_connection(
    client: ModuleType, baked: Baker
) -> None:
    async def enter(url: str, token: str) -> None:
        async with asyncio.timeout(DEADLINE_S), client.connect(url, token) as ws:
            rooms = [ws.room(f"team {number}") for number in range(10)]
            async with ws.room("good") as good:
                entries = (room.__aenter__() for room in rooms)
                ends: list[Any] = await asyncio.gather(*entries, return_exceptions=True)
                assert {end.code for end in ends} == {"bad_room"}
                await good.presence()
                assert ws.status.state == "online"

    with running(baked(DEFAULT)) as service:
        options = service.connect_options("alice")
        token = options["headers"]["Authorization"].removeprefix("Bearer ")
        asyncio.run(enter(options["uri"], token))


def updated(info: object, user: str = "alice") -> dict[str, Any]:
    """Return the event of an info."""
    return {"type": "updated", "room": "tea", "user": user, "info": info}


@pytest.mark.parametrize(
    ("events", "info"),
    [
        ([updated("away")], None),
        ([updated("away") | {"type": "joined"}], None),
        ([updated("")], None),
        ([updated("here") | {"type": "joined"}], "here"),
        ([updated("away", "bob")], "here"),
        ([updated(None)], "here"),
        ([{"type": "left", "room": "tea", "user": "alice"}], "here"),
        ([updated("away") | {"type": "own"}], "here"),
    ],
)
def test_a_join_repeats_the_info_unless_another_connection_has_set_one(
    client: ModuleType, events: list[dict[str, Any]], info: str | None
) -> None:
    server = RoomServer()

    async def follow(ws: Any) -> None:
        async with ws.room("tea", info="here") as room:
            await ws.request("say", frames=events)
            await room.set_info(None)
            await ws.request("end")
            while ws.welcome is not None:
                await asyncio.sleep(0)
            await room.publish("online again")

    scripted(client.connect, follow, server, server)
    joins = [command.get("info") for command in server.commands if command["type"] == "join"]
    assert joins == ["here", info]


@pytest.mark.parametrize("moment", ["joining", "joined"])
@pytest.mark.parametrize("later", [None, "later"])
@pytest.mark.parametrize(
    ("first", "own", "last"),
    [
        ("here", "mine", "mine"),
        ("here", "bad", None),
        ("here", "here", "here"),
        (True, True, True),
        ({"status": 1}, {"status": 1}, {"status": 1}),
    ],
)
def test_an_info_that_is_being_set_is_newer_than_another(
    client: ModuleType, moment: str, first: object, own: object, last: object, later: str | None
) -> None:
    server = RoomServer()
    server.updates = [updated("theirs")]

    async def change(ws: Any) -> None:
        room = ws.room("tea", info=first)
        entering = asyncio.create_task(room.__aenter__())
        await asyncio.sleep(0)
        if moment == "joined":
            await entering
        with suppress(client.RequestError):
            await room.set_info(own)
        await entering
        await ws.ping()  # the info was answered, if it had to be sent
        server.updates.clear()
        await ws.request("say", frames=[updated(later)])
        await ws.request("end")
        while ws.welcome is not None:
            await asyncio.sleep(0)
        await room.publish("online again")

    scripted(client.connect, change, server, server)
    joins = [command.get("info") for command in server.commands if command["type"] == "join"]
    assert joins[-1] == (None if later else last)


def test_a_room_without_an_info_repeats_none_of_another_connection(client: ModuleType) -> None:
    server = RoomServer()

    async def follow(ws: Any) -> None:
        async with ws.room("tea") as room:
            await ws.request("say", frames=[updated("theirs")])
            await ws.request("end")
            while ws.welcome is not None:
                await asyncio.sleep(0)
            await room.publish("online again")

    scripted(client.connect, follow, server, server)
    joins = [command.get("info") for command in server.commands if command["type"] == "join"]
    assert joins == [None, None]


FRAMES: dict[str, str | bytes] = {**INVALID_FRAMES, "bytes": b'{"type": "new"}'}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_after_an_invalid_frame_it_connects_again(client: ModuleType, frame: str | bytes) -> None:
    async def spoil(connection: ServerConnection) -> None:
        await answer(connection, **OK)
        await connection.send(frame)

    async def follow(ws: Any) -> None:
        statuses: list[Any] = []
        ws._on_status = statuses.append
        async with ws.room("tea") as room:
            while not statuses:
                await asyncio.sleep(0.001)
            await room.publish("online again")
            offline = [status for status in statuses if status.state == "offline"]
            assert [status.code for status in offline] == [client.ABNORMAL]
            assert "invalid frame" in offline[0].reason

    scripted(client.connect, follow, spoil, RoomServer())


@pytest.mark.parametrize(
    "wrong",
    [*INVALID_WELCOMES, {"type": "ok"}, {"limits": {"message_bytes": 9, "burst_s": "x"}}],
    ids=str,
)
def test_after_an_invalid_welcome_it_connects_again(
    client: ModuleType, wrong: dict[str, object]
) -> None:
    welcomes = [{} if "type" in wrong else WELCOME | wrong, WELCOME]

    async def handler(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "ok"} | welcomes.pop(0)))
        with suppress(ConnectionClosed):
            await RoomServer()(connection)

    statuses: list[Any] = []

    async def connect() -> None:
        async with asyncio.timeout(DEADLINE_S), serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"ws://127.0.0.1:{port}/ws"
            async with client.connect(url, on_status=statuses.append) as ws:
                assert welcomes == []
                await ws.ping()

    asyncio.run(connect())
    states = [status.state for status in statuses]
    assert states == ["connecting", "offline", "connecting", "online", "ended"]


@pytest.mark.parametrize("fails", ["a frame", "a room"])
def test_a_mistake_of_the_client_ends_it_with_a_traceback(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a mistake")

    room = import_module(f"{client.__name__}.rooms").Room
    owner, name = (client.connect, "_receive") if fails == "a frame" else (room, "_on_join")
    monkeypatch.setattr(owner, name, fail)
    states: list[str] = []

    async def follow(ws: Any) -> None:
        ws._on_status = lambda status: states.append(status.state)
        with pytest.raises(client.Ended, match="the client has failed: KeyError"):
            await ws.room("tea").__aenter__()

    with pytest.raises(KeyError, match="a mistake"):
        scripted(client.connect, follow, RoomServer())
    assert states == ["ended"]


@pytest.mark.parametrize("wrong", INVALID_ANSWERS, ids=str)
def test_after_an_invalid_answer_to_a_join_it_connects_again(
    client: ModuleType, wrong: dict[str, object]
) -> None:
    servers = [RoomServer(**wrong), RoomServer()]

    async def enter(ws: Any) -> None:
        async with ws.room("tea"):
            assert servers[1].types() == ["join"]

    scripted(client.connect, enter, *servers)


def test_unknown_types_and_fields_are_not_invalid(client: ModuleType) -> None:
    frames = [
        {"type": "new", "room": {"number": 5}, "offset": "x", "code": 1},
        {"type": "message", "from": "bob", "data": 1, "to": "user", "new": []},
        {"type": "new", "room": 5},
        {"type": "resync", "room": 5},
    ]
    answers = [{"type": "new", "id": [1]}, {"type": "new", "id": 1}]

    async def follow(ws: Any) -> None:
        async with ws.room("5") as room:
            await ws.request("say", frames=[*answers, *frames])
            assert [await anext(ws) for _ in frames] == frames
            await ws.request("publish", room=5)  # which is not the room that is joined
            assert not room._unread

    server = RoomServer()
    scripted(client.connect, follow, server)
    assert server.types().count("join") == 1


@pytest.mark.parametrize("end", ["evicted", "left", "refused"])
def test_an_info_of_a_room_that_is_not_joined_is_only_stored(client: ModuleType, end: str) -> None:
    server = RoomServer(**(REFUSED if end == "refused" else {}))

    async def change(ws: Any) -> None:
        room = ws.room("tea")
        with suppress(client.RequestError):
            async with room:
                if end == "evicted":
                    await ws.request("say", frames=[EVICTED])
        await room.set_info("away")
        assert room.info == "away"
        assert ws.rooms == {}
        await ws.ping()

    scripted(client.connect, change, server)
    assert server.types().count("join") == 1


def test_an_info_that_is_refused_is_not_sent_again(client: ModuleType) -> None:
    server = RoomServer()

    async def change(ws: Any) -> None:
        async with ws.room("tea", info="good") as room:
            changes = [room.set_info("bad"), room.set_info("bad")]
            for refusal in await asyncio.gather(*changes, return_exceptions=True):
                assert isinstance(refusal, client.RequestError)
            with pytest.raises(TypeError):
                await room.set_info({"a set"})
            await ws.request("end")
            while ws.welcome is not None:
                await asyncio.sleep(0)
            await ws.ping()

    scripted(client.connect, change, server, server)
    joins = [command.get("info") for command in server.commands if command["type"] == "join"]
    assert joins == ["good", "bad", "bad", "good"]


def test_an_info_that_is_refused_at_a_rejoin_does_not_end_the_membership(
    client: ModuleType,
) -> None:
    server = RoomServer()

    async def change(ws: Any) -> None:
        async with ws.room("tea", info="good") as room:
            await ws.request("end")
            while ws.welcome is not None:
                await asyncio.sleep(0)
            await room.set_info("bad")
            while room.info == "bad" or not room.is_member:
                await asyncio.sleep(0.01)
            assert room.info == "good"
            assert list(ws.rooms) == ["tea"]

    scripted(client.connect, change, server, server)
    joins = [command.get("info") for command in server.commands if command["type"] == "join"]
    assert joins == ["good", "bad", "good"]


def test_a_join_that_is_too_large_refuses_its_room_alone(client: ModuleType) -> None:
    async def enter(ws: Any) -> None:
        async with ws.room("tea"):
            await ws.request("end")
            while ws.welcome is not None:
                await asyncio.sleep(0)
            with pytest.raises(client.RequestError, match="too_large"):
                await ws.room("milk", info="x" * 100_000).__aenter__()
            await ws.ping()
            assert list(ws.rooms) == ["tea"]

    scripted(client.connect, enter, RoomServer(), RoomServer())


def test_a_resync_without_a_room_is_for_all_rooms_and_is_yielded(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module(f"{client.__name__}.rooms"), "RESYNC_S", 0.0)
    server = RoomServer()
    everywhere, elsewhere = ({"type": "resync", "room": room} for room in (None, "attic"))

    async def follow(ws: Any) -> None:
        async with ws.room("tea", events=True) as tea, ws.room("milk", events=True) as milk:
            await ws.request("say", frames=[elsewhere])
            await ws.ping()
            assert await anext(ws) == elsewhere
            assert server.types() == ["join", "join", "say", "ping"]
            await ws.request("say", frames=[everywhere])
            assert await anext(ws) == everywhere
            for room in (tea, milk):
                while (await anext(room)).type != "rejoined":
                    pass

    scripted(client.connect, follow, server)
    assert server.types()[5:7] == ["join", "join"]


def test_messages_in_flight_after_a_leave_are_dropped(client: ModuleType) -> None:
    by_hand = MESSAGE | {"data": "joined by hand", "offset": 2}

    async def follow(ws: Any) -> None:
        async with ws.room("tea"):
            pass
        await ws.request("say", frames=[by_hand])
        assert await anext(ws) == by_hand

    scripted(client.connect, follow, RoomServer())


def test_a_room_that_was_left_does_not_end_a_new_one(client: ModuleType) -> None:
    server = RoomServer()

    async def follow(ws: Any) -> None:
        async with ws.room("tea"):
            await ws.request("say", frames=[EVICTED])
            new = await ws.room("tea").__aenter__()
        await ws.ping()
        assert ws.rooms == {"tea": new}

    scripted(client.connect, follow, server)
    assert server.types() == ["join", "say", "leave", "join", "ping"]


def test_a_room_may_be_entered_again(client: ModuleType) -> None:
    async def follow(ws: Any) -> None:
        room = ws.room("tea")
        for offset in (1, 2):
            async with room:
                await ws.request("say", frames=[MESSAGE | {"offset": offset}])
                assert (await anext(room)).offset == offset

    scripted(client.connect, follow, RoomServer())


@pytest.mark.parametrize("has_state", [True, False])
def test_a_gap_is_loaded_or_told(client: ModuleType, *, has_state: bool) -> None:
    read: list[str] = []

    async def load() -> None:
        read.append("state")
        await asyncio.sleep(0)

    async def follow(ws: Any) -> None:
        async with ws.room("tea", load if has_state else None) as room:
            await ws.request("say", frames=[MESSAGE | {"offset": 1}])
            read.append((await anext(room)).type)
            await ws.request("end")
            while ws.rooms["tea"].position["epoch"] != "new":
                await asyncio.sleep(0.001)
            await ws.request("say", frames=[MESSAGE | {"offset": 11}])
            while read[-1] != "message" or len(read) < 3:
                read.append((await anext(room)).type)

    again = RoomServer(recovered=False, epoch="new", offset=10)
    scripted(client.connect, follow, RoomServer(), again)
    missing = "state" if has_state else "gap"
    assert read == ["state"] * has_state + ["message", missing, "message"]


@pytest.mark.parametrize("has_state", [True, False])
def test_too_many_unread_messages_are_replaced_by_a_gap(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch, *, has_state: bool
) -> None:
    monkeypatch.setattr(import_module(f"{client.__name__}.inbox"), "MAX_UNREAD", 3)
    loads: list[str] = []

    async def load() -> None:
        await asyncio.sleep(0)
        loads.append("load")

    async def follow(ws: Any) -> None:
        async with ws.room("tea", load if has_state else None) as room:
            await ws.request("say", frames=[MESSAGE | {"offset": 1}])
            assert (await anext(room)).offset == 1
            await ws.request("say", frames=[MESSAGE | {"offset": at} for at in range(2, 7)])
            if not has_state:
                assert (await anext(room)).type == "gap"
            assert (await anext(room)).offset == 6

    scripted(client.connect, follow, RoomServer())
    assert len(loads) == 2 * has_state


@pytest.mark.parametrize("is_welcome", [True, False])
def test_the_limit_of_pauses_is_reset_by_a_connection_that_has_lasted(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch, *, is_welcome: bool
) -> None:
    module = import_module(f"{client.__name__}.connection")
    monkeypatch.setattr(module, "LASTING_S", -1.0)  # after its welcome, each has lasted
    attempts: list[int] = []

    def pause(attempt: int) -> float:
        attempts.append(attempt)
        return 0.0

    monkeypatch.setattr(module, "pause", pause)

    async def handler(connection: ServerConnection) -> None:
        if is_welcome:
            await connection.send(json.dumps(WELCOME))
        await connection.close(1012 if len(attempts) < 3 else 4503)

    async def connect(url: str) -> None:
        async with asyncio.timeout(DEADLINE_S), client.connect(url) as ws:
            await anext(ws)

    with faulty_server.running(handler) as port, pytest.raises(client.Ended, match="4503"):
        asyncio.run(connect(f"ws://127.0.0.1:{port}/ws"))
    assert attempts == ([1, 1, 1] if is_welcome else [1, 2, 3])


def test_the_limit_of_pauses_begins_with_two_seconds(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"{client.__name__}.status")
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 20.0)
    monkeypatch.setattr(module.random, "uniform", lambda least, most: most)
    assert [module.pause(attempt) for attempt in range(1, 6)] == [2.0, 4.0, 8.0, 16.0, 20.0]


@pytest.mark.parametrize(
    ("header", "pause_s"), [("7", 7), ("3600", 60), ("Fri, 31 Dec 1999 23:59:59 GMT", 0)]
)
def test_the_pause_that_a_refusal_asks_for_is_kept(
    client: ModuleType, header: str, pause_s: float
) -> None:
    statuses: list[Any] = []

    def refuse(connection: ServerConnection, _: Request) -> Response:
        response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "no\n")
        response.headers["Retry-After"] = header
        return response

    async def connect() -> None:
        async with serve(send, "127.0.0.1", 0, process_request=refuse) as server:
            port = server.sockets[0].getsockname()[1]
            ws = client.connect(f"ws://127.0.0.1:{port}/ws", on_status=statuses.append)
            connecting = asyncio.create_task(ws.__aenter__())
            async with asyncio.timeout(DEADLINE_S):
                while not any(status.state == "offline" for status in statuses):
                    await asyncio.sleep(0.001)
            await ws.close()
            with pytest.raises(client.Ended):
                await connecting

    asyncio.run(connect())
    assert pause_s < statuses[1].pause_s < pause_s + 0.5


def test_a_connection_may_be_closed_before_it_begins(client: ModuleType) -> None:
    async def connect() -> None:
        ws = client.connect("ws://127.0.0.1:1/ws")
        await ws.close()
        with pytest.raises(client.Ended, match="1000 closed by the client"):
            await ws.__aenter__()

    asyncio.run(connect())


def example_of(combination: Combination) -> str:
    """Return the example of the combination's document."""
    page = (TEMPLATE / PROJECT_DIRECTORY / CLIENTS).read_text(encoding="utf-8")
    text = JINJA.from_string(page).render(cookiecutter=dict(combination.answers))
    (block,) = blocks_of(CLIENTS, text, "python")
    return block.body


VARIANTS = {(example_of(each), dict(each.answers)["auth"]): each for each in COMBINATIONS}
"""The client is another one for each kind of authentication, even if the example is the same."""


@pytest.mark.parametrize("combination", VARIANTS.values(), ids=[v.id for v in VARIANTS.values()])
def test_the_example_of_the_document_works(combination: Combination, baked: Baker) -> None:
    project, example = baked(combination), example_of(combination)
    options = project.combination.options
    expected = ["state='online'"]
    if "rooms" in options:
        expected += ["the state", "{'text': 'hi'}"]
    else:
        expected += [" hi" if "none" in options else "alice hi"]
    with running(project) as service, TemporaryDirectory() as directory:
        copy = project.copy(Path(directory, "project"))
        example = example.replace(":8000/ws", ":8000/ws?page=1")  # any URL works
        copy.write("follow.py", example.replace(":8000", f":{service.port}"))
        printed = service.shell(f"{venv_bin(project) / 'python'} -m dev.token alice")
        following = subprocess.Popen(
            [venv_bin(project) / "python", "-u", "follow.py", printed.partition("\n")[0]],
            cwd=copy.root,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        deadline = Timer(DEADLINE_S, following.kill)
        deadline.start()
        with following:
            assert following.stdout is not None
            for part in expected:
                assert any(part in line for line in following.stdout), f"prints no {part}"
            following.terminate()
        deadline.cancel()


def test_a_server_that_does_not_read_is_detected_and_can_be_left(client: ModuleType) -> None:
    states: list[str] = []

    async def connect() -> None:
        thaw = asyncio.Event()

        async def freeze(connection: ServerConnection) -> None:
            heartbeat = {"interval_s": 0.05, "timeout_s": 0.05}
            await connection.send(json.dumps(WELCOME | {"heartbeat": heartbeat}))
            connection.transport.pause_reading()
            await thaw.wait()
            connection.transport.resume_reading()

        async with asyncio.timeout(DEADLINE_S), serve(freeze, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            ws = client.connect(
                f"ws://127.0.0.1:{port}/ws", on_status=lambda status: states.append(status.state)
            )
            async with ws:
                for _ in range(2):  # to be lost, and to be left
                    sending = [
                        ws.request("send", to="bob", data="x" * 60_000, timeout_s=0.01)
                        for _ in range(300)
                    ]
                    await asyncio.gather(*sending, return_exceptions=True)
                    while "offline" not in states or ws.welcome is None:
                        await asyncio.sleep(0.001)
            thaw.set()

    asyncio.run(connect())
    assert states[-1] == "ended"


async def publish_within_budget(client: ModuleType, room: Any) -> None:
    """Publish, and again while the budget is spent."""
    while True:
        try:
            await room.publish("hi", echo=True)
        except client.RequestError as error:
            if error.code != "rate_limited":
                raise
            await asyncio.sleep(0.25)  # or these requests are the flood
        else:
            return


def test_many_rooms_are_joined_again_without_a_flood(
    client: ModuleType, baked: Baker, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"{client.__name__}.status")
    monkeypatch.setattr(module, "SHORTEST_PAUSE_S", 0.25)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 1.0)
    statuses: list[Any] = []

    async def follow(url: str, token: str, proxy: Proxy) -> None:
        ws = client.connect(url, token, on_status=statuses.append)
        async with asyncio.timeout(DEADLINE_S), ws, AsyncExitStack() as stack:
            rooms = [ws.room(f"room-{number}") for number in range(45)]
            await asyncio.gather(*map(stack.enter_async_context, rooms))
            await asyncio.to_thread(proxy.cut)
            while ws.welcome is not None:
                await asyncio.sleep(0.001)
            await publish_within_budget(client, rooms[-1])
            assert (await anext(rooms[-1])).data == "hi"
            for room in rooms:
                await room._wait_until(lambda room=room: room._held is None)

    settings = {"MAX_MESSAGES_PER_S": "20", "MAX_BURST_S": "1"}
    with Proxy().running() as proxy, running(baked(DEFAULT), **settings) as service:
        proxy.target = int(service.port)
        header = service.connect_options("alice")["headers"]["Authorization"]
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        asyncio.run(follow(url, header.removeprefix("Bearer "), proxy))
    codes = [status.code for status in statuses if status.state == "offline"]
    assert codes == [1006]


def test_the_requests_of_a_member_do_not_wait_for_its_turn_to_join_again(
    client: ModuleType,
) -> None:
    server = RoomServer()
    server.refusals = {("join", "slow"): [RATE_LIMITED] * 1_000_000}

    async def enter(ws: Any) -> None:
        async with ws.room("tea") as room:
            slow = asyncio.create_task(ws.room("slow").__aenter__())
            await asyncio.sleep(0)
            room._join_in_turn()  # as after a resync
            await ws.request("publish", room="tea", data=1)
            assert room.join_stage == "due"
            slow.cancel()
            await asyncio.wait([slow])

    scripted(client.connect, enter, server, limits=ONE_AT_ONCE)


def test_a_room_left_before_its_turn_sends_nothing(client: ModuleType) -> None:
    server = RoomServer()

    async def enter(ws: Any) -> None:
        tasks = [asyncio.create_task(ws.room(name).__aenter__()) for name in ("a", "b", "c")]
        await asyncio.sleep(0)
        assert [name for name, room in ws.rooms.items() if room.join_stage == "due"] == ["b", "c"]
        published = asyncio.create_task(ws.request("publish", room="c", data=1))
        tasks[1].cancel()
        await asyncio.gather(tasks[0], tasks[2], published)

    scripted(client.connect, enter, server, limits=ONE_AT_ONCE)
    assert "b" not in [command["room"] for command in server.commands]


def test_a_room_left_before_its_join_sends_the_leave_of_the_former_visit(
    client: ModuleType,
) -> None:
    server = RoomServer()
    server.refusals = {("leave", "tea"): [UNAVAILABLE], ("join", "slow"): [RATE_LIMITED] * 1_000}

    async def enter(ws: Any) -> None:
        slow, again = ws.room("slow"), ws.room("tea")
        async with ws.room("tea"):
            entering_slow = asyncio.create_task(slow.__aenter__())
            await asyncio.sleep(0)
        entering = asyncio.create_task(again.__aenter__())
        await asyncio.sleep(0)
        assert [name for name, room in ws.rooms.items() if room.join_stage == "due"] == ["tea"]
        entering.cancel()
        entering_slow.cancel()
        await asyncio.wait([entering, entering_slow])
        await ws.ping()

    scripted(client.connect, enter, server, limits=ONE_AT_ONCE)
    sent = [command["type"] for command in server.commands if command.get("room") == "tea"]
    assert sent == ["join", "leave", "leave"]


def test_a_room_that_is_not_available_does_not_hold_others_up(client: ModuleType) -> None:
    server = RoomServer()
    server.refusals = {("join", "down"): [UNAVAILABLE] * 1_000_000}

    async def enter(ws: Any) -> None:
        down = asyncio.create_task(ws.room("down").__aenter__())
        await asyncio.sleep(0)
        published = asyncio.create_task(ws.request("publish", room="down", data=1))
        async with ws.room("up"):
            assert not down.done()
            server.refusals.clear()
            await asyncio.gather(down, published)

    scripted(client.connect, enter, server, limits=ONE_AT_ONCE)
    sent = [command["type"] for command in server.commands if command.get("room") == "down"]
    assert sent == ["join"] * (len(sent) - 1) + ["publish"]


def test_rooms_join_in_the_order_of_entry_while_one_is_refused_for_now(client: ModuleType) -> None:
    """After a refusal, the next room has its turn before the refused one has another."""
    server = RoomServer()
    server.refusals = {("join", "down"): [UNAVAILABLE] * 1_000_000}

    async def enter(ws: Any) -> None:
        async with AsyncExitStack() as stack:
            down, *others = (
                asyncio.create_task(stack.enter_async_context(ws.room(name)))
                for name in ("down", "x", "y")
            )
            await asyncio.gather(*others)
            assert not down.done()
            server.refusals.clear()
            await down

    scripted(client.connect, enter, server, limits=ONE_AT_ONCE)
    joins = [command["room"] for command in server.commands if command["type"] == "join"]
    assert joins[:2] == ["down", "x"]
    assert joins[2] == "y" or joins[2:4] == ["down", "y"]


@pytest.mark.parametrize("rates", [{}, {"messages_per_s": 0, "burst_s": 0}])
def test_rooms_are_joined_whatever_the_limits_say(
    client: ModuleType, rates: dict[str, int]
) -> None:
    async def enter(ws: Any) -> None:
        async with ws.room("tea"), ws.room("milk"):
            pass

    limits = {"message_bytes": 65_536} | rates
    scripted(client.connect, enter, RoomServer(), limits=limits)


def test_no_more_rooms_join_at_once_when_all_get_a_resync(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module(f"{client.__name__}.rooms"), "RESYNC_S", 0.0)
    joins: list[int] = []

    async def answer_late(connection: ServerConnection) -> None:
        held: list[str] = []
        while len(joins) < 2:
            command = json.loads(await connection.recv())
            if command["type"] == "join":
                held.append(command["id"])
                continue
            joins.append(len(held))
            for frame in ({"type": "resync", "room": None}, OK | {"id": command["id"]}):
                await connection.send(json.dumps(frame))
        for number in held:
            await connection.send(json.dumps(OK | {"id": number}))
        await RoomServer()(connection)

    async def enter(ws: Any) -> None:
        async with AsyncExitStack() as stack:
            rooms = [ws.room(f"room-{number}") for number in range(80)]
            entering = asyncio.gather(*map(stack.enter_async_context, rooms))
            await asyncio.sleep(0)
            await ws.ping()
            await ws.ping()
            await entering
        await ws.ping()  # the server has read what it was sent

    limits = WELCOME["limits"] | {"messages_per_s": 20, "burst_s": 1}
    scripted(client.connect, enter, answer_late, limits=limits)
    assert joins[0] == 5
    assert joins[1] <= 10


def test_a_client_closes_while_many_rooms_wait(client: ModuleType) -> None:
    async def close(ws: Any) -> None:
        entering = [asyncio.create_task(ws.room(f"room-{n}").__aenter__()) for n in range(1_000)]
        await asyncio.sleep(0)
        await ws.close()
        ends = await asyncio.gather(*entering, return_exceptions=True)
        assert {str(end) for end in ends} == {"1000 closed by the client"}

    scripted(client.connect, close, ServerConnection.wait_closed, limits=ONE_AT_ONCE)


def test_a_request_does_not_look_at_those_that_wait(client: ModuleType) -> None:
    class Requests(dict[str, Any]):
        def items(self) -> Any:
            raise AssertionError("each request would look at all")

    async def ask() -> None:
        ws = client.connect("ws://127.0.0.1:1/ws")
        ws.rooms["tea"], ws.welcome, ws._unsent = ws.room("tea"), WELCOME, Requests()
        for _ in range(2):
            ws.ask({"type": "publish", "room": "tea"}, lambda answer: None)
        assert list(ws._unsent) == ["1", "2"]

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("info", "infos"), [("bad", ["old", "bad", "old"]), ("new", ["old", "new", "new", "new"])]
)
def test_an_info_set_during_a_join_is_sent_until_it_is_answered(
    client: ModuleType, info: str, infos: list[str]
) -> None:
    server = RoomServer()

    async def change(ws: Any) -> None:
        room = ws.room("tea", info="old")
        entering = asyncio.create_task(room.__aenter__())
        await asyncio.sleep(0)
        await room.set_info(info)
        await entering
        server.refusals = {("join", "tea"): [RATE_LIMITED]} if info == "new" else {}
        while len(server.commands) < len(infos) - 1:
            await asyncio.sleep(0.001)
        await ws.request("end")
        while ws.welcome is not None:
            await asyncio.sleep(0)
        await ws.request("publish", room="tea", data=1)
        await room.__aexit__()

    scripted(client.connect, change, server, server)
    sent = [command.get("info") for command in server.commands if command["type"] == "join"]
    assert sent == infos


def test_a_redirect_is_not_followed(client: ModuleType) -> None:
    paths: list[str] = []

    async def connect() -> None:
        def redirect(connection: ServerConnection, request: Request) -> Response:
            paths.append(request.path)
            response = connection.respond(HTTPStatus.TEMPORARY_REDIRECT, "there\n")
            response.headers["Location"] = "/elsewhere"
            return response

        async with (
            asyncio.timeout(DEADLINE_S),
            serve(send, "127.0.0.1", 0, process_request=redirect) as server,
        ):
            port = server.sockets[0].getsockname()[1]
            await client.connect(f"ws://127.0.0.1:{port}/ws", "token").__aenter__()

    with pytest.raises(client.Ended, match="307 Temporary Redirect"):
        asyncio.run(connect())
    assert paths == ["/ws"]


@pytest.mark.usefixtures("_at_once")
def test_the_pauses_of_a_room_begin_again_when_it_has_joined(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    monkeypatch.setattr(import_module(f"{client.__name__}.rooms"), "pause", attempts.append)
    connection = Commands(client)
    room = connection.rooms["tea"]
    room.join()
    connection.refuse()
    connection.refuse()
    connection.answer()
    room.receive({"type": "resync", "room": "tea"})
    connection.refuse()
    room.interrupt()
    room.join()
    connection.answer()  # ignored: it belongs to the connection that was lost
    connection.refuse()
    assert attempts == [1, 2, 1, 1]


def test_a_request_that_was_cancelled_while_offline_is_not_sent(client: ModuleType) -> None:
    commands: list[dict[str, Any]] = []

    async def keep(connection: ServerConnection) -> None:
        commands.append(await answer(connection))

    async def connect() -> None:
        async with asyncio.timeout(DEADLINE_S), serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            ws = client.connect(f"ws://127.0.0.1:{port}/ws")
            sending = asyncio.create_task(ws.request("send", to="bob"))
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            async with ws:
                await ws.ping()

    async def handler(connection: ServerConnection) -> None:
        await connection.send(json.dumps(WELCOME))
        await keep(connection)
        await connection.wait_closed()

    asyncio.run(connect())
    assert [command["type"] for command in commands] == ["ping"]


def test_a_lone_surrogate_is_refused_at_once(client: ModuleType) -> None:
    async def ask(ws: Any) -> None:
        for text in ("\ud83d", ["\ude00"]):
            with pytest.raises(ValueError, match="surrogates not allowed"):
                await ws.request("send", to="bob", data=text)
            with pytest.raises(ValueError, match="surrogates not allowed"):
                ws.room("tea", info=text)
        with pytest.raises(ValueError, match="surrogates not allowed"):
            ws.room("\ud83d")
        await ws.ping()

    scripted(client.connect, ask, answer)


def test_the_limit_counts_the_bytes_of_text_in_utf_8(client: ModuleType) -> None:
    async def ask(ws: Any) -> None:
        await ws.request("send", to="bob", data="é" * 45)
        with pytest.raises(client.RequestError, match="too_large"):
            await ws.request("send", to="bob", data="é" * 90)

    scripted(client.connect, ask, answer, limits=WELCOME["limits"] | {"message_bytes": 150})


UNSENDABLE = "secret-of-alice\n"


def test_a_token_that_no_header_can_have_is_in_no_message(client: ModuleType) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as failure:
        client.connect("ws://127.0.0.1:1/ws", UNSENDABLE)
    reasons = [str(failure.value)]
    tokens = iter([UNSENDABLE, "sécret-of-alice", None])

    async def connect() -> None:
        ws = client.connect(
            "ws://127.0.0.1:1/ws",
            lambda: next(tokens),
            on_status=lambda status: reasons.append(status.reason),
        )
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(client.Ended, match="signed out"):
                await ws.__aenter__()

    asyncio.run(connect())
    assert sum("printable ASCII" in reason for reason in reasons) == 3
    assert "of-alice" not in str(reasons)


@pytest.mark.parametrize("is_online", [True, False])
def test_a_client_whose_task_is_cancelled_has_ended(client: ModuleType, *, is_online: bool) -> None:
    async def cancel(ws: Any) -> None:
        asking = asyncio.create_task(ws.request("send", to="bob"))
        await asyncio.sleep(0)
        if not is_online:
            ws._outbox.put_nowait('{"type": "end"}')
            while ws.status.state != "offline":
                await asyncio.sleep(0)
        ws._running.cancel()
        with pytest.raises(client.Ended, match="1006 the client has failed: CancelledError"):
            await anext(ws)
        with pytest.raises(client.RequestError):
            await asking

    async def serve_until_end(connection: ServerConnection) -> None:
        while json.loads(await connection.recv())["type"] != "end":
            pass
        await connection.close(1012)

    scripted(client.connect, cancel, serve_until_end)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("has_state", [True, False])
def test_ephemeral_messages_do_not_overtake_others(client: ModuleType, *, has_state: bool) -> None:
    for ok in ({"recovered": True}, {"recovered": False, "epoch": "new"}):
        connection = Commands(client)
        room = connection.rooms["tea"]
        room.join()
        connection.answer()
        room._state = object() if has_state else None
        room.receive({"type": "resync", "room": "tea"})
        for number, offset in enumerate([1, None, 2, None]):
            room.receive(MESSAGE | {"data": number, "offset": offset})
        assert not room._unread
        connection.answer(offset=2, **ok)
        is_lost = not ok["recovered"]
        is_loaded = is_lost and has_state
        expected = ["gap"] * is_lost + ([1, 3] if is_loaded else [0, 1, 2, 3])
        read = [each.type if each.type == "gap" else each.data for each in room._unread]
        assert read == expected


@pytest.mark.usefixtures("_at_once")
def test_a_gap_keeps_what_the_state_cannot_have(client: ModuleType) -> None:
    connection = Commands(client)
    room = connection.rooms["tea"]
    room.join()
    connection.answer()
    room._state = object()
    for number, offset in enumerate([1, None]):
        room.receive(MESSAGE | {"data": number, "offset": offset})
    room.receive({"type": "resync", "room": "tea"})
    connection.answer(offset=2, recovered=False, epoch="new")
    assert [each.data for each in room._unread] == [1, None]
    assert room._unread[-1].type == "gap"


def test_an_info_that_the_caller_changes_is_sent_when_it_is_set(client: ModuleType) -> None:
    connection = Commands(client, info=(info := {"status": "here"}))
    room = connection.rooms["tea"]

    async def change() -> None:
        room.join()
        info["status"] = "away"
        await room.set_info(info)
        info["status"] = "not yet set"
        connection.answer()

    asyncio.run(change())
    assert [command["info"]["status"] for command in connection.commands] == ["here", "away"]


def pauses_of_refreshes(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch, expiries: list[float]
) -> list[float]:
    """Return the pauses before tokens with these expiries are refreshed; the time is 1,000."""
    module = import_module(f"{client.__name__}.connection")
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 1_000.0))
    first, *later = expiries
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    async def request(command: str, token: str) -> dict[str, Any]:
        if not later:
            raise asyncio.CancelledError
        return {"expires_at": later.pop(0)}

    async def refresh() -> None:
        ws = client.connect("ws://127.0.0.1:1/ws", "token")
        ws.request = request
        monkeypatch.setattr(module.asyncio, "sleep", sleep)
        with suppress(asyncio.CancelledError):
            await ws._refresh(first)

    asyncio.run(refresh())
    return pauses


def test_a_clock_that_is_ahead_does_not_refresh_all_the_time(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiries = [500.0, 500.0, 500.0, 1_005.0, 1_400.0, 500.0]
    pauses = pauses_of_refreshes(client, monkeypatch, expiries)
    assert pauses == [10.0, 20.0, 40.0, 80.0, 300.0, 10.0]
    pauses = pauses_of_refreshes(client, monkeypatch, [1_005.0, 1_005.0, 1_005.0])
    assert pauses == [10.0, 20.0, 40.0]


def test_short_tokens_are_refreshed_before_they_expire(
    client: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = pauses_of_refreshes(client, monkeypatch, [1_012.0, 1_012.0, 1_012.0])
    assert pauses == [10.0, 10.0, 10.0]
