"""The life of a connection, from the handshake to the cleanup."""

import json
from dataclasses import replace

import pytest
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus

from app.realtime import Authenticator, Identity
from app.realtime.commands.router import CommandRouter
from app.realtime.connections.connection import Connection
from app.realtime.connections.manager import ConnectionManager
from app.realtime.errors import TooManyConnections, Unauthorized
from app.realtime.protocol import SLOW_CONSUMER, SUBPROTOCOL, TRY_AGAIN_LATER, UNAUTHORIZED
from app.realtime.server.websocket import FrameProtocol
from app.realtime.service import Service
from app.realtime.wire.frame import text_frame

from ..client import Client, ConnectOptions
from ..live import Live, make_settings, run_service, wait_until
from ..raw_client import masked, raw_client


def with_headers(options: ConnectOptions, **headers: str) -> ConnectOptions:
    """Return the options with headers added or replaced."""
    return replace(options, headers=options.headers | headers)


async def test_welcome_comes_first_and_has_the_limits(live: Live) -> None:
    client = await live.connect("alice")
    assert client.welcome["protocol"] == 1
    assert client.welcome["connection"]
    assert client.welcome["limits"]["message_bytes"] == live.settings.max_message_bytes
    # {% if cookiecutter.heartbeat %}
    assert client.welcome["heartbeat"] == {
        "interval_s": live.settings.heartbeat_interval_s,
        "timeout_s": live.settings.heartbeat_timeout_s,
    }
    # {% else %}
    assert client.welcome["heartbeat"] is None
    # {% endif %}


async def test_credentials_are_not_kept_in_memory(live: Live) -> None:
    await live.connect("alice")
    (connection,) = live.service.manager
    assert isinstance(connection._wire, FrameProtocol)
    scope = connection._wire.scope
    assert (scope["headers"], scope["query_string"], scope["subprotocols"]) == ([], b"", [])


@pytest.mark.hostile(59)
async def test_a_reset_connection_is_removed(live: Live) -> None:
    client = await live.connect("alice")
    client.connection.transport.abort()
    await wait_until(lambda: len(live.service.manager) == 0)


async def test_cleanup_removes_only_the_closed_connection(live: Live) -> None:
    first = await live.connect("alice")
    second = await live.connect("alice")
    await first.close()
    await wait_until(lambda: len(live.service.manager) == 1)
    assert [each.id for each in live.service.manager] == [second.welcome["connection"]]
    assert (await second.ask(type="ping"))["type"] == "pong"


async def test_a_listed_origin_is_accepted(live: Live) -> None:
    options = with_headers(await live.options(), Origin=live.settings.allowed_origins[0])
    client = await live.connect_with(options)
    assert client.welcome["type"] == "welcome"


async def test_in_development_the_services_own_pages_may_connect() -> None:
    async with run_service(make_settings(environment="development")) as live:
        for host in ("localhost", "127.0.0.1"):
            own = with_headers(await live.options(), Origin=f"http://{host}:{live.port}")
            assert await live.connect_with(own)
        other = with_headers(await live.options(), Origin=f"http://{host}:{live.port + 1}")
        with pytest.raises(InvalidStatus):
            await Client.open(other)


@pytest.mark.hostile(28)
async def test_in_production_pages_of_the_same_machine_are_refused(live: Live) -> None:
    assert live.settings.environment == "production"
    for host in ("localhost", "127.0.0.1"):
        own = with_headers(await live.options(), Origin=f"http://{host}:{live.port}")
        with pytest.raises(InvalidStatus):
            await Client.open(own)


@pytest.mark.hostile(28)
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.test",
        "https://evil-example.com",
        "https://example.com.evil.test",
        "http://example.com",
        "https://example.com:8443",
        "null",
        "",
    ],
)
async def test_other_origins_get_403_before_the_upgrade(live: Live, origin: str) -> None:
    options = with_headers(await live.options(), Origin=origin)
    with pytest.raises(InvalidStatus) as refusal:
        await Client.open(options)
    assert refusal.value.response.status_code == 403


@pytest.mark.hostile(52)
async def test_a_service_at_capacity_answers_503_before_the_upgrade() -> None:
    async with run_service(make_settings(max_connections=2)) as live:
        await live.connect("alice")
        last = await live.connect("bob")
        with pytest.raises(InvalidStatus) as refusal:
            await live.connect("alice")
        assert refusal.value.response.status_code == 503
        assert int(refusal.value.response.headers["Retry-After"]) > 0
        await last.close()
        await wait_until(lambda: len(live.service.manager) == 1)
        assert await live.connect("alice")


@pytest.mark.hostile(27)
async def test_only_the_marker_subprotocol_is_echoed(live: Live) -> None:
    for offered, echoed in ((["other", SUBPROTOCOL], SUBPROTOCOL), (["other"], None)):
        options = replace(await live.options(), subprotocols=offered)
        client = await live.connect_with(options)
        assert client.connection.subprotocol == echoed


@pytest.mark.hostile(11)
async def test_binary_frames_close_with_1003(live: Live) -> None:
    client = await live.connect()
    await client.connection.send(b"\x00\x01")
    assert (await client.closed())[0] == 1003


@pytest.mark.hostile(10)
async def test_text_that_is_not_utf8_closes_with_1007(live: Live) -> None:
    client = await live.connect()
    client.connection.transport.write(masked(b"\xff"))
    assert (await client.closed())[0] == 1007


@pytest.mark.hostile(75)
async def test_a_draining_service_refuses_new_clients() -> None:
    async with run_service() as live:
        options = await live.options()
        live.service.manager.draining = True
        with pytest.raises(InvalidStatus) as refusal:
            await Client.open(options)
        answer = refusal.value.response
        assert answer.status_code == 503
        assert json.loads(answer.body)["detail"] == "Service Unavailable"  # the reason is logged


@pytest.mark.hostile(12)
async def test_a_message_over_the_limit_closes_with_1009(live: Live) -> None:
    client = await live.connect()
    await client.send_text("x" * (live.settings.max_message_bytes + 1))
    assert (await client.closed())[0] == 1009


async def test_observers_are_called_for_welcomed_connections_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = []

    async def connected(service: Service, connection: Connection) -> None:
        events.append("connected")

    async def disconnected(service: Service, connection: Connection) -> None:
        events.append(f"disconnected, {len(service.manager)} left")

    async def refuse(manager: ConnectionManager, connection: Connection) -> None:
        raise TooManyConnections

    router = CommandRouter()
    router.connected(connected)
    router.disconnected(disconnected)
    async with run_service(commands=router) as live:
        client = await live.connect()
        await client.close()
        await wait_until(lambda: len(events) == 2)
        monkeypatch.setattr(ConnectionManager, "add", refuse)
        client = await live.connect_with(await live.options(), welcomed=False)
        assert await client.closed() == TRY_AGAIN_LATER
    assert events == ["connected", "disconnected, 0 left"]


@pytest.mark.parametrize("failure", [RuntimeError, Unauthorized])
async def test_other_observers_run_after_one_has_failed(failure: type[Exception]) -> None:
    ended = []

    async def fail(service: Service, connection: Connection) -> None:
        raise failure

    async def note(service: Service, connection: Connection) -> None:
        ended.append(connection.user)

    router = CommandRouter()
    router.disconnected(fail)
    router.disconnected(note)
    async with run_service(commands=router) as live:
        client = await live.connect("alice")
        await client.close()
        await wait_until(lambda: ended == [client.user])
        assert len(live.service.manager) == 0


@pytest.mark.parametrize(
    "user",
    ["", " ", "a ", "\x01" * 120, "a\u202eb", "a\u2028b", "a\u200d", "\u2800", "\u3164", "x" * 129],
)
async def test_user_names_that_are_invisible_or_too_long_are_refused(user: str) -> None:
    class Careless(Authenticator):
        async def authenticate(self, handshake: HTTPConnection) -> Identity:
            return Identity(user)

    async with run_service() as live:
        options = await live.options()
        live.service.authenticator = Careless(live.settings)
        client = await live.connect_with(options, welcomed=False)
        assert await client.closed() == UNAUTHORIZED


@pytest.mark.hostile(56)
async def test_the_first_write_is_limited_too() -> None:
    """Send megabytes in one turn of the loop to a client that reads nothing."""
    limit, frame = 330_000, text_frame(b"x" * 50_000)
    async with (
        run_service(make_settings(max_unsent_bytes=limit)) as live,
        raw_client(await live.options()) as client,
    ):
        await client.upgraded()
        await wait_until(lambda: len(live.service.manager) == 1)
        (connection,) = live.service.manager
        connection.send_encoded(*[frame] * 400)
        await wait_until(lambda: connection.closed is not None)
        assert connection.closed == SLOW_CONSUMER
        assert limit - 2 * len(frame) < connection.unsent_bytes() < limit + 100
