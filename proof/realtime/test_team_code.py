"""Faults in the team's code affect only the command or the connection that called it.

The handlers and observers hang, are cancelled, exit, or call the engine from a thread.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import pytest
from fastapi import Request
from opentelemetry.trace import StatusCode
from pydantic import JsonValue, field_validator
from structlog.testing import capture_logs

from app.realtime.auth.identity import Identity
from app.realtime.commands.router import CommandRouter
from app.realtime.connections import delivery
from app.realtime.connections import guard as guards
from app.realtime.connections.connection import Connection
from app.realtime.connections.delivery import MESSAGES_IN_A_ROW, Delivery
from app.realtime.connections.guard import Guard
from app.realtime.errors import (
    CommandError,
    Flood,
    Forbidden,
    TeamCodeFailed,
    TimedOut,
    Unauthorized,
    Unavailable,
    WrongThread,
)
from app.realtime.policy import Policy
from app.realtime.protocol import (
    EXPIRED,
    FLOOD,
    INTERNAL_ERROR,
    TRY_AGAIN_LATER,
    UNAUTHORIZED,
    Close,
    Command,
    Ok,
    Reply,
    ServerFrame,
)
from app.realtime.service import Service
from app.realtime.wire.asgi import READ_AHEAD_BYTES

from .client import DEADLINE_S
from .engine import make_app
from .live import Live, make_settings, run_app, run_service, wait_until
from .raw_client import masked, masked_close, raw_client
from .recording_wire import RecordingWire, open_connection
from .test_tracing import Spans, error_of, spans

__all__ = ["spans"]


@dataclass(slots=True, kw_only=True)
class Notice(ServerFrame):
    """A frame of the team."""

    type: Literal["notice"] = "notice"


class Work(Command):
    """A command of the team."""

    type: Literal["work"]
    data: JsonValue = None
    seconds: float = 0.0

    @field_validator("data")
    @classmethod
    def _check(cls, value: JsonValue) -> JsonValue:
        if value == "break the validator":
            raise KeyError(value)
        return value


@dataclass(slots=True, kw_only=True)
class WorkOk(Ok):
    """A reply that may hold a value without JSON."""

    result: Any


Handle = Callable[[Service, Connection, Work], Coroutine[Any, Any, Any]]


class Team:
    """A running service; the test sets the handler of its command `work`."""

    live: Live
    handle: Handle

    async def work(self, service: Service, connection: Connection, command: Work) -> Any:
        """Call the test's handler."""
        return await self.handle(service, connection, command)


@asynccontextmanager
async def run_team(
    failures: dict[type[Exception], CommandError] | None = None, **settings: object
) -> AsyncIterator[Team]:
    """Run a service with the command `work`."""
    team, router = Team(), CommandRouter()
    router.command(Work)(team.work)
    router.failures |= failures or {}
    async with run_service(make_settings(**settings), commands=router) as live:
        team.live = live
        yield team


@pytest.fixture
async def team() -> AsyncIterator[Team]:
    async with run_team() as team:
        yield team


@pytest.fixture
async def short_timeout_team() -> AsyncIterator[Team]:
    async with run_team(handler_timeout_s=0.05) as team:
        # Shorter only from here on: the server's own deadline for a request stays long.
        service = team.live.service
        service.settings = service.settings.model_copy(update={"handshake_timeout_s": 0.2})
        yield team


async def hang(*_: object) -> None:
    """Wait forever."""
    await asyncio.Event().wait()


async def await_a_cancelled_task(*_: object) -> None:
    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    task.cancel()
    await task


async def raise_cancelled(*_: object) -> None:
    raise asyncio.CancelledError


async def exit_at_once(*_: object) -> None:
    sys.exit("secret")


async def exit_later(*_: object) -> None:
    await asyncio.sleep(0)
    sys.exit("secret")


async def fail_later(*_: object) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("secret")


async def return_another_object(*_: object) -> object:
    return object()


async def return_an_expired_identity(*_: object) -> Identity:
    return Identity("alice", time.time() - 1)


async def return_the_data(service: Service, connection: Connection, command: Work) -> object:
    return command.data


async def return_a_class(*_: object) -> object:
    return WorkOk  # where WorkOk(...) was meant


async def return_a_reply_without_json(*_: object) -> Ok:
    return WorkOk(result=object())


def later(end: Callable[[asyncio.Future[Reply]], object]) -> Handle:
    """Return a handler with a deferred reply: a future that ``end`` completes."""

    async def handle(*_: object) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(end, future)
        return future

    return handle


def raising(failure: BaseException) -> Handle:
    """Return a handler that raises an exception."""

    async def handle(*_: object) -> None:
        raise failure

    return handle


FAILURES: list[Handle] = [
    raising(BaseException("secret")),  # as extensions in Rust raise a panic
    raising(BaseExceptionGroup("one", [SystemExit("secret")])),
    raising(BaseExceptionGroup("one", [asyncio.CancelledError()])),
    raising(BaseExceptionGroup("two", [asyncio.CancelledError(), RuntimeError("secret")])),
    await_a_cancelled_task,
    raise_cancelled,
    exit_at_once,
    exit_later,
    fail_later,
    return_another_object,
    return_a_class,
    return_the_data,
    return_a_reply_without_json,
    later(lambda future: future.set_exception(RuntimeError("secret"))),
    later(lambda future: future.set_exception(BaseExceptionGroup("one", [SystemExit("secret")]))),
    later(lambda future: future.cancel()),
    later(lambda future: future.set_result(cast(Reply, object()))),
    later(lambda future: future.set_result(WorkOk(result=object()))),
]


@pytest.mark.parametrize("handle", FAILURES)
async def test_a_failing_handler_gets_one_error_reply(team: Team, handle: Handle) -> None:
    client = await team.live.connect()
    team.handle = handle
    with capture_logs() as lines:
        error = await client.ask(type="work", id="1", data="payload")
    assert (error["type"], error["code"], error["retry"]) == ("error", "internal", False)
    assert "secret" not in json.dumps(error)
    assert [line["event"] for line in lines] == ["handler failed", "commands refused"]
    assert "payload" not in repr(lines)
    assert await client.is_quiet()
    team.handle = raising(Forbidden("not now"))
    assert (await client.ask(type="work", id="2"))["code"] == "forbidden"
    assert (await client.ask(type="broadcast", id="3", data=1))["type"] == "ok"


@pytest.mark.parametrize(
    "handle", [hang, later(lambda _: None)], ids=["a handler", "a deferred reply"]
)
async def test_a_handler_that_times_out_gets_unavailable(
    short_timeout_team: Team, handle: Handle
) -> None:
    client = await short_timeout_team.live.connect()
    short_timeout_team.handle = handle
    error = await client.ask(type="work", id="1")
    assert (error["code"], error["retry"]) == ("unavailable", True)
    assert await client.is_quiet()


async def test_a_deferred_reply_at_the_deadline_is_the_only_answer(
    short_timeout_team: Team,
) -> None:
    """The future is done in the turn of the loop in which the engine's timer expires."""

    async def handle(service: Service, *_: object) -> asyncio.Future[Reply]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        loop.call_later(service.settings.handler_timeout_s, future.set_result, Ok())
        return future

    client = await short_timeout_team.live.connect()
    short_timeout_team.handle = handle
    for _ in range(3):
        await client.ask(type="work", id="1")
        assert await client.is_quiet()


async def test_an_os_error_in_a_handler_is_retryable(team: Team) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionRefusedError

    client = await team.live.connect()
    team.handle = fail
    error = await client.ask(type="work")
    assert (error["code"], error["retry"]) == ("unavailable", True)


async def test_the_team_maps_its_exceptions_to_errors() -> None:
    class DatabaseError(Exception):
        pass

    class Deadlock(DatabaseError):
        pass

    async def fail(*_: object) -> None:
        raise Deadlock

    async with run_team({DatabaseError: Unavailable("the database is busy")}) as team:
        client = await team.live.connect()
        team.handle = fail
        error = await client.ask(type="work")
        assert (error["code"], error["message"]) == ("unavailable", "the database is busy")


async def test_a_close_that_cannot_be_sent_changes_nothing(team: Team) -> None:
    async def close(service: Service, connection: Connection, command: Command) -> None:
        connection.send(Ok(id="sent"))
        connection.close(Close(4600, "x" * 124))

    client = await team.live.connect()
    team.handle = close
    await client.send(type="work", id="1")
    answers = [await client.receive("ok", "error") for _ in range(2)]
    assert [answer["id"] for answer in answers] == ["sent", "1"]
    assert answers[1]["code"] == "internal"
    assert await client.is_quiet()


@pytest.mark.parametrize("later", [False, True])
async def test_an_error_is_told_without_lone_surrogates(team: Team, *, later: bool) -> None:
    async def fail(*_: object) -> None:
        raise Unavailable("no file \udcff.db")

    async def defer(*_: object) -> asyncio.Task[None]:
        return asyncio.create_task(fail())

    client = await team.live.connect()
    team.handle = defer if later else fail
    assert (await client.ask(type="work"))["message"] == "no file ?.db"


@pytest.mark.parametrize("answer", [1, "no", (False,), None, bool])
async def test_a_readiness_check_that_returns_no_bool_has_failed(answer: Any) -> None:
    async def is_ready(service: Service) -> bool:
        return cast(bool, answer)

    async with run_app(make_app(make_settings(), ready=is_ready)) as live:
        with capture_logs() as lines:
            assert (await live.get("/readyz")).status_code == 503
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "readiness check failed"
    ]


@pytest.mark.parametrize("answer", [1, "no", (False,), None])
async def test_a_rule_that_returns_no_bool_allows_nothing(answer: Any) -> None:
    class Careless(Policy):
        async def can_send(self, *_: object) -> bool:
            return cast(bool, answer)

    async with run_service(policy=Careless()) as live:
        client = await live.connect()
        assert (await client.ask(type="send", to="bob", data=1))["code"] == "internal"


async def test_a_span_has_the_error_that_clients_get(spans: Spans) -> None:
    async def fail(*_: object) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(refuse())

    async def refuse() -> None:
        raise KeyError

    async with run_team({KeyError: Forbidden("there is none")}) as team:
        team.handle = fail
        client = await team.live.connect()
        assert (await client.ask(type="work"))["code"] == "forbidden"
        await wait_until(lambda: "work" in spans())
    assert error_of(spans()["work"]) == ("forbidden", StatusCode.UNSET)


async def test_the_one_failure_of_a_task_group_is_answered_as_itself(team: Team) -> None:
    async def refuse() -> None:
        raise Forbidden("not today")

    async def in_groups(tasks: int, groups: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(in_groups(tasks, groups - 1) if groups > 1 else refuse())

    client = await team.live.connect()
    for tasks, groups, code in ((1, 1, "forbidden"), (1, 2, "forbidden"), (2, 1, "internal")):
        fail = partial(in_groups, tasks, groups)

        async def defer(*_: object, fail: Callable[[], Any] = fail) -> asyncio.Task[None]:
            return asyncio.create_task(fail())

        for handle in (lambda *_, fail=fail: fail(), defer):
            team.handle = handle
            assert (await client.ask(type="work", id="1"))["code"] == code
            assert await client.is_quiet()


async def test_a_connection_may_be_refused_in_a_task_group() -> None:
    router = CommandRouter()

    async def refuse() -> None:
        raise Unauthorized("the account is locked")

    @router.connecting
    async def begin(service: Service, connection: Connection) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())

    async with run_service(commands=router) as live:
        client = await live.connect_with(await live.options(), welcomed=False)
        assert await client.closed() == UNAUTHORIZED


async def test_a_failing_validator_gets_an_error_reply(team: Team) -> None:
    client = await team.live.connect()
    error = await client.ask(type="work", id="1", data="break the validator")
    assert error["code"] == "internal"
    assert await client.is_quiet()


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
async def test_a_number_must_be_finite(team: Team, seconds: float) -> None:
    client = await team.live.connect()
    assert (await client.ask(type="work", id="1", seconds=seconds))["code"] == "bad_request"


async def test_a_handler_may_close_the_connection(team: Team) -> None:
    async def reject(*_: object) -> None:
        raise Flood("too much work")

    client = await team.live.connect()
    team.handle = reject
    with capture_logs() as lines:
        await client.send(type="work", id="1")
        assert await client.closed() == FLOOD
    assert "too much work" in [line.get("cause") for line in lines]


async def test_handlers_and_observers_must_be_coroutine_functions() -> None:
    def plain(*_: object) -> None:
        pass

    router = CommandRouter()
    with pytest.raises(TypeError, match="async def"):
        router.command(Work)(plain)  # type: ignore[arg-type]
    for register in (router.connected, router.disconnected):
        with pytest.raises(TypeError, match="async def"):
            register(plain)  # type: ignore[arg-type]


@pytest.fixture(params=["hangs", "ignores cancellation"])
def stuck(request: pytest.FixtureRequest) -> Iterator[Handle]:
    """Return team code that hangs until the end of the test."""
    released = asyncio.Event()

    async def ignore_cancellation(*_: object) -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    yield hang if request.param == "hangs" else ignore_cancellation
    released.set()


def is_empty_service(live: Live) -> bool:
    """Return whether the service holds no connection."""
    service = live.service
    # {% if cookiecutter.rooms %}
    if len(service.rooms):
        return False
    # {% endif %}
    return len(service.manager) == 0 and not service.admission._connections


async def test_a_connection_ends_while_its_handler_hangs(team: Team, stuck: Handle) -> None:
    client = await team.live.connect()
    # {% if cookiecutter.rooms %}
    await client.ask(type="join", room="lobby")
    # {% endif %}
    team.handle = stuck
    await client.send(type="work")
    for _ in range(10):  # queued behind it
        await client.send(type="ping")
    client.connection.transport.abort()
    await wait_until(lambda: is_empty_service(team.live))


@pytest.mark.parametrize("ended_by", ["EOF", "a reset"])
async def test_a_connection_ends_with_its_read_ahead_buffer_full(team: Team, ended_by: str) -> None:
    client = await team.live.connect()
    team.handle = hang
    await client.send(type="work")
    for _ in range(2 * READ_AHEAD_BYTES // 1_000):
        client.connection.protocol.send_text(b"x" * 1_000)
        client.connection.send_data()
    if ended_by == "a reset":
        client.connection.transport.abort()
    else:
        client.connection.transport.close()
    await wait_until(lambda: is_empty_service(team.live))


async def test_commands_of_a_gone_client_are_not_handled_after_the_grace(team: Team) -> None:
    handled = 0

    async def count_and_hang(*_: object) -> None:
        nonlocal handled
        handled += 1
        await hang()

    team.handle = count_and_hang
    work = masked(b'{"type": "work"}')
    async with raw_client(await team.live.options()) as client:
        await client.upgraded()
        await client.frame()  # the welcome
        client.send(work + work + masked_close(1000))
        await wait_until(lambda: team.live.counts()["ws_connections_closed_total client 1000"] == 1)
    assert handled == 1


DEFERRED = masked(b'{"type": "work"}') * (MESSAGES_IN_A_ROW - 1)
BURST = 4 * (DEFERRED + masked(b'{"type": "ping"}'))


async def test_a_burst_waits_for_its_deferred_replies(team: Team) -> None:
    replies: list[asyncio.Future[Reply]] = []

    async def defer(*_: object) -> asyncio.Future[Reply]:
        replies.append(asyncio.get_running_loop().create_future())
        return replies[-1]

    team.handle = defer
    client, other = await team.live.connect(), await team.live.connect("bob")
    client.connection.transport.write(BURST)
    for _ in range(4):
        await wait_until(lambda: len(replies) >= MESSAGES_IN_A_ROW - 1)
        for _ in range(5):
            await other.ask(type="ping")
        assert len(replies) == MESSAGES_IN_A_ROW - 1
        for reply in replies:
            reply.set_result(Ok())
        replies.clear()


async def test_a_client_that_leaves_before_its_deferred_reply_has_closed_itself(team: Team) -> None:
    async def defer(*_: object) -> asyncio.Future[Reply]:
        return asyncio.get_running_loop().create_future()

    team.handle = defer
    async with raw_client(await team.live.options()) as client:
        await client.upgraded()
        await client.frame()  # the welcome
        client.send(BURST + masked_close(1001))
        await wait_until(lambda: team.live.counts()["ws_connections_closed_total client 1001"] == 1)


async def test_a_disconnected_user_is_removed_while_the_handler_hangs(
    team: Team, stuck: Handle
) -> None:
    client = await team.live.connect()
    team.handle = stuck
    await client.send(type="work")
    await team.live.service.manager.disconnect(client.user)
    await wait_until(lambda: is_empty_service(team.live))


@pytest.mark.parametrize(
    "observe", [fail_later, await_a_cancelled_task, raise_cancelled, exit_at_once, hang]
)
@pytest.mark.parametrize("when", ["connected", "disconnected"])
async def test_a_failing_observer_does_not_keep_the_connection(when: str, observe: Any) -> None:
    heard: list[str] = []

    async def hear(service: Service, connection: Connection) -> None:
        heard.append(connection.user)

    router = CommandRouter()
    for observer in (observe, hear):
        getattr(router, when)(observer)
    settings = make_settings(handler_timeout_s=0.05)
    async with run_service(settings, commands=router) as live:
        client = await live.connect()
        # {% if cookiecutter.rooms %}
        await client.ask(type="join", room="lobby")
        # {% else %}
        assert (await client.ask(type="ping"))["type"] == "pong"
        # {% endif %}
        await client.close()
        await wait_until(lambda: is_empty_service(live))
        await wait_until(lambda: heard == [client.user])


async def test_a_connection_ends_if_its_beginning_is_unavailable() -> None:
    router = CommandRouter()

    @router.connecting
    async def begin(service: Service, connection: Connection) -> None:
        raise Unavailable("the database does not answer")

    with capture_logs() as lines:
        async with run_service(commands=router) as live:
            client = await live.connect_with(await live.options(), welcomed=False)
            assert await client.closed() == TRY_AGAIN_LATER
    assert "the database does not answer" in [line.get("cause") for line in lines]


@pytest.mark.parametrize("when", ["connecting", "connected"])
async def test_an_observer_may_close_the_connection(when: str) -> None:
    async def reject(service: Service, connection: Connection) -> None:
        raise Unauthorized("the account is locked")

    router = CommandRouter()
    getattr(router, when)(reject)
    with capture_logs() as lines:
        async with run_service(commands=router) as live:
            welcomed = when == "connected"
            client = await live.connect_with(await live.options(), welcomed=welcomed)
            assert await client.closed() == UNAUTHORIZED
    (rejected,) = [line for line in lines if line["event"] == "connection rejected"]
    assert rejected["cause"] == "the account is locked"


@pytest.mark.parametrize(
    ("authenticate", "close"),
    [
        (hang, TRY_AGAIN_LATER),
        (raise_cancelled, INTERNAL_ERROR),
        (fail_later, INTERNAL_ERROR),
        (return_another_object, INTERNAL_ERROR),
        (exit_at_once, INTERNAL_ERROR),
        (return_an_expired_identity, EXPIRED),
    ],
)
async def test_a_failing_authenticator_closes_the_connection(
    short_timeout_team: Team, monkeypatch: pytest.MonkeyPatch, authenticate: Any, close: object
) -> None:
    live = short_timeout_team.live
    options = await live.options()
    monkeypatch.setattr(live.service.authenticator, "authenticate", authenticate)
    client = await live.connect_with(options, welcomed=False)
    assert await client.closed() == close
    await wait_until(lambda: is_empty_service(live))


async def test_an_aborted_handshake_releases_its_slot(
    live: Live, monkeypatch: pytest.MonkeyPatch, stuck: Handle
) -> None:
    options = await live.options()
    monkeypatch.setattr(live.service.authenticator, "authenticate", stuck)
    connecting = asyncio.create_task(live.connect_with(options))
    await wait_until(lambda: live.service.admission._connections > 0)
    connecting.cancel()
    await wait_until(lambda: is_empty_service(live))


async def call_from_a_route(live: Live, call: Callable[[Service], object]) -> object:
    """Make a call in a route that FastAPI runs in a thread; return the exception, or None."""
    app: Any = live.server.config.app
    raised: list[object] = []

    @app.get("/call")  # type: ignore[untyped-decorator]
    def route(request: Request) -> None:
        try:
            call(request.app.state.service)
        except Exception as failure:
            raised.append(failure)
        else:
            raised.append(None)

    try:
        assert (await live.get("/call")).status_code == 200
    finally:
        app.router.routes.pop()
    return raised.pop()


CALLS: dict[str, Callable[[Service], object]] = {
    "broadcast": lambda service: service.manager.broadcast("x"),
    "send_to_user": lambda service: service.manager.send_to_user("alice", "x"),
    "send_to_connection": lambda service: service.manager.send_to_connection("unknown", 1),
    # {% if cookiecutter.redis %}
    "send_to_node": lambda service: service.manager.send_to_node(Ok()),
    # {% endif %}
    "send_frame": lambda service: service.manager.send_frame(Notice(), "alice"),
    "send_frame to nobody": lambda service: service.manager.send_frame(Notice()),
    "broadcast_frame": lambda service: service.manager.broadcast_frame(Notice()),
    "is_online": lambda service: asyncio.run(service.manager.is_online("alice")),
    "ban": lambda service: asyncio.run(service.ban(only(service).user, 60)),
    "disconnect": lambda service: service.manager.disconnect("alice"),
    "close": lambda service: only(service).close(FLOOD),
    "send": lambda service: only(service).send(Ok()),
    # {% if cookiecutter.auth == "jwt" %}
    "renew": lambda service: only(service).renew(only(service).identity),
    # {% endif %}
    "in a loop of its own": lambda service: asyncio.run(broadcast(service)),
    # {% if cookiecutter.rooms %}
    "publish": lambda service: service.rooms.publish("lobby", "x"),
    "pass_on": lambda service: asyncio.run(service.rooms.pass_on("lobby", "x")),
    "send_frame to a room": lambda service: service.rooms.send_frame("lobby", Notice()),
    "history": lambda service: asyncio.run(service.rooms.history("lobby")),
    "leave": lambda service: service.rooms.leave(only(service), "lobby"),
    "join": lambda service: asyncio.run(service.rooms.join(only(service), "other")),
    "evict": lambda service: service.rooms.evict("lobby", "alice"),
    "set_info": lambda service: service.rooms.set_info(only(service), "lobby", 1),
    "presence": lambda service: asyncio.run(service.rooms.presence("lobby")),
    # {% endif %}
}


async def broadcast(service: Service) -> None:
    await service.manager.broadcast("x")


def only(service: Service) -> Connection:
    """Return the only connection."""
    (connection,) = service.manager
    return connection


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_call_from_a_thread_raises(live: Live, call: Callable[[Service], object]) -> None:
    client = await live.connect()
    # {% if cookiecutter.rooms %}
    await client.ask(type="join", room="lobby")
    # {% endif %}
    failure = await call_from_a_route(live, call)
    assert isinstance(failure, WrongThread)
    assert "asyncio.run_coroutine_threadsafe" in str(failure)
    assert await client.is_quiet()
    # {% if cookiecutter.rooms %}
    answer = await client.ask(type="presence", room="lobby")
    assert answer["total"] == 1
    # {% endif %}


async def test_a_thread_can_call_through_the_event_loop(live: Live) -> None:
    client, loop = await live.connect(), asyncio.get_running_loop()

    def call(service: Service) -> None:
        asyncio.run_coroutine_threadsafe(broadcast(service), loop).result(DEADLINE_S)

    assert await call_from_a_route(live, call) is None
    await asyncio.to_thread(call, live.service)
    for _ in range(2):
        assert (await client.receive("message"))["data"] == "x"


async def answer_of_route(live: Live, call: Callable[[Request], Coroutine[Any, Any, Any]]) -> int:
    """Return the status of a team's route, called without credentials."""
    app: Any = live.server.config.app
    app.add_api_route("/own", call)
    try:
        return (await live.get("/own")).status_code
    finally:
        app.router.routes.pop()


# {% if cookiecutter.auth != "none" %}
async def test_a_route_can_require_credentials(live: Live) -> None:
    async def route(request: Request) -> str:
        identity = await live.service.authenticator.authenticate(request)
        return identity.user

    assert await answer_of_route(live, route) == 401


# {% endif %}
async def test_unavailable_in_a_route_answers_503(live: Live) -> None:
    async def route(request: Request) -> None:
        raise Unavailable

    assert await answer_of_route(live, route) == 503


async def test_a_stalled_send_path_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with run_service() as live:
        assert (await live.get("/readyz")).status_code == 200
        client = await live.connect()
        with monkeypatch.context() as patch:
            patch.setattr(delivery, "STALLED_S", 0.05)
            patch.setattr(Delivery, "_flush", lambda delivery: None)
            await client.send(type="ping")
            await wait_until(lambda: live.service.delivery._is_due)
            answer = await live.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "send path stalled")


async def test_a_failing_wire_closes_only_its_connection() -> None:
    class FailingWire(RecordingWire):
        def write(self, frames: object, max_unsent_bytes: int) -> int | None:
            raise OSError

    shared, wire = Delivery(), RecordingWire()
    failing = open_connection(FailingWire(), shared)
    assert failing.closed == INTERNAL_ERROR
    open_connection(wire, shared).send(Ok())
    await shared.catch_up()
    assert len(wire.writes) == 1


async def run(timeout_s: float, call: Coroutine[Any, Any, Any], guard: Guard | None = None) -> Any:
    """Run a call under a guard, and return its result."""
    guard = guard or Guard(timeout_s)
    try:
        with guard:
            return await call
    finally:
        guard.close()


async def test_a_guard_passes_on_outer_cancellations() -> None:
    waiting = asyncio.create_task(run(DEADLINE_S, hang()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


@pytest.mark.parametrize(
    "failure",
    [
        BaseExceptionGroup("one", [asyncio.CancelledError()]),
        BaseExceptionGroup("two", [asyncio.CancelledError(), SystemExit()]),
        SystemExit(),
    ],
)
async def test_a_cancelled_task_is_cancelled_however_its_code_ends(failure: BaseException) -> None:
    async def fail() -> None:
        try:
            await hang()
        finally:
            raise failure

    waiting = asyncio.create_task(run(DEADLINE_S, fail()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_a_timeout_inside_the_call_is_not_the_guards() -> None:
    async def time_out() -> None:
        async with asyncio.timeout(0):
            await hang()

    with pytest.raises(TimeoutError):
        await run(DEADLINE_S, time_out())
    with pytest.raises(TimedOut):
        await run(0.01, hang())


async def test_an_early_timer_is_rescheduled_for_a_later_deadline() -> None:
    guard = Guard(DEADLINE_S)

    async def have_the_timer_fire() -> bool:
        guard.close()
        guard._check_deadline()
        await asyncio.sleep(0)
        return guard._timer is not None

    assert await run(DEADLINE_S, have_the_timer_fire(), guard)


async def test_code_in_a_cancelled_task_has_a_deadline() -> None:
    raised: list[Exception] = []

    async def stop() -> None:
        try:
            await hang()
        finally:
            for call in (hang, raise_cancelled):
                try:
                    await run(0.01, call())
                except Exception as failure:
                    raised.append(failure)

    stopping = asyncio.create_task(stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert [type(each) for each in raised] == [TimedOut, TeamCodeFailed]


async def test_a_clean_up_that_waits_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "CLEAN_UP_S", 0.01)

    async def clean_up_three_times() -> None:
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await hang()
        await hang()

    task = asyncio.current_task()
    with pytest.raises(TimedOut):
        await run(0.01, clean_up_three_times())
    assert task is not None
    assert task.cancelling() == 0


async def test_a_connection_ends_while_its_handler_cleans_up(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the handler waits again, for example for the answer to a rollback."""
    monkeypatch.setattr(guards, "CLEAN_UP_S", 0.01)
    began = asyncio.Event()

    async def roll_back(*_: object) -> None:
        began.set()
        try:
            await hang()
        finally:
            await hang()

    client = await team.live.connect()
    team.handle = roll_back
    await client.send(type="work")
    await began.wait()
    await client.connection.close()
    await wait_until(lambda: not team.live.service.budgets._of_users)


async def test_an_interrupted_call_leaves_no_pending_cancellation() -> None:
    async def ignore() -> str:
        with suppress(asyncio.CancelledError):
            await hang()
        return "late"

    guard, task = Guard(0.01), asyncio.current_task()
    assert await run(0.01, ignore(), guard) == "late"
    with pytest.raises(TimedOut):
        await run(0.01, hang(), guard)
    assert task is not None
    assert task.cancelling() == 0


async def test_an_end_is_counted_before_observers_that_may_be_cancelled() -> None:
    commands, counted = CommandRouter(), list[int]()

    @commands.disconnected
    async def note(service: Service, connection: Connection) -> None:
        counted.append(live.counts()["ws_connections_closed_total client 1000"])

    async with run_service(commands=commands) as live:
        client = await live.connect()
        await client.close()
        await wait_until(lambda: counted == [1])
