"""Limits on handshakes and connections, and the address of a client behind proxies."""

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import InvalidStatus

from app.realtime.auth.identity import Identity
from app.realtime.errors import Unauthorized
from app.realtime.limits import admission
from app.realtime.limits.admission import Admission, network_of
from app.realtime.protocol import UNAUTHORIZED

from ..client import Client, ConnectOptions
from ..live import Live, make_settings, run_service, wait_until


async def connect_from(live: Live, address: str) -> Client:
    """Connect as a proxy on this machine would for a client at this address."""
    options = await live.options()
    headers = options.headers | {"X-Forwarded-For": address}
    return await live.connect_with(ConnectOptions(options.uri, headers, options.subprotocols))


async def assert_refused(live: Live, address: str, status: int) -> None:
    """Connect from this address; the handshake must get this status."""
    with pytest.raises(InvalidStatus) as refusal:
        await connect_from(live, address)
    assert refusal.value.response.status_code == status
    assert int(refusal.value.response.headers["Retry-After"]) > 0


@pytest.mark.hostile(52)
async def test_connections_per_address_are_limited() -> None:
    async with run_service(make_settings(max_connections_per_address=2)) as live:
        first, _ = [await connect_from(live, "192.0.2.1") for _ in range(2)]
        await assert_refused(live, "192.0.2.1", 429)
        await connect_from(live, "192.0.2.2")
        await first.close()
        await wait_until(lambda: len(live.service.manager) == 2)
        await connect_from(live, "192.0.2.1")
        await assert_refused(live, "192.0.2.1", 429)


async def test_addresses_of_an_ipv6_network_share_a_limit() -> None:
    async with run_service(make_settings(max_connections_per_address=2)) as live:
        await connect_from(live, "2001:db8:0:1::1")
        await connect_from(live, "2001:db8:0:1:ffff:ffff:ffff:ffff")
        await assert_refused(live, "2001:db8:0:1::2", 429)
        await connect_from(live, "2001:db8:0:2::1")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:0db8:0000:0000"),
        ("2001:DB8:0:0:1::", "2001:0db8:0000:0000"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_an_address_belongs_to_its_network(host: str, network: str) -> None:
    assert network_of(host) == network


async def test_forwarded_headers_of_untrusted_peers_are_ignored() -> None:
    settings = make_settings(forwarded_allow_ips="192.0.2.9", max_connections_per_address=1)
    with capture_logs() as entries:
        async with run_service(settings) as live:
            await connect_from(live, "192.0.2.1")
            await assert_refused(live, "192.0.2.2", 429)
    logged = [entry for entry in entries if "client" in entry]
    assert [(entry["event"], entry["client"]) for entry in logged] == [
        ("connection opened", "127.0.0.1"),
        ("handshake refused", "127.0.0.1"),
    ]


async def test_a_forged_forwarded_header_is_ignored() -> None:
    settings = make_settings(forwarded_allow_ips="127.0.0.0/8", max_connections_per_address=1)
    with capture_logs() as entries:
        async with run_service(settings) as live:
            await connect_from(live, "203.0.113.1, 192.0.2.1")
            await assert_refused(live, "203.0.113.2, 192.0.2.1", 429)
    assert {entry["client"] for entry in entries if "client" in entry} == {"192.0.2.1"}


async def test_a_star_trusts_every_proxy() -> None:
    settings = make_settings(forwarded_allow_ips="*", max_connections_per_address=1)
    async with run_service(settings) as live:
        await connect_from(live, "192.0.2.1, 192.0.2.9")
        await connect_from(live, "192.0.2.2, 192.0.2.9")
        await assert_refused(live, "192.0.2.2", 429)


@pytest.mark.hostile(77)
async def test_handshakes_are_rate_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(admission, "monotonic", lambda: now_s)
    async with run_service(make_settings(max_handshakes_per_s=4)) as live:
        for _ in range(4):
            await live.connect()
        for _ in range(20):  # which do not count
            await assert_refused(live, "192.0.2.1", 503)
        now_s += 0.5
        for _ in range(2):
            await live.connect()
        await assert_refused(live, "192.0.2.1", 503)
        assert len(live.service.manager) == 6


async def foreign_page(live: Live, address: str, origin: str) -> ConnectOptions:
    """Return options for a page of another site."""
    options = await live.options()
    headers = options.headers | {"Origin": origin, "X-Forwarded-For": address}
    return ConnectOptions(options.uri, headers, options.subprotocols)


@pytest.mark.hostile(77)
async def test_handshakes_per_address_are_rate_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(admission, "monotonic", lambda: now_s)
    settings = make_settings(max_handshakes_per_s=10, max_handshakes_per_s_per_address=4)
    async with run_service(settings) as live:
        for _ in range(4):
            await connect_from(live, "192.0.2.1")
        for _ in range(20):  # which do not count
            await assert_refused(live, "192.0.2.1", 429)
        for _ in range(4):
            await connect_from(live, "192.0.2.2")
        now_s += 0.5
        for _ in range(2):
            await connect_from(live, "192.0.2.1")
        await assert_refused(live, "192.0.2.1", 429)


@pytest.mark.hostile(28, 77)
async def test_refused_origins_do_not_use_the_limits_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "monotonic", lambda: 1_000.0)
    settings = make_settings(
        max_handshakes_per_s=3, max_handshakes_per_s_per_address=5, max_connections=1
    )
    async with run_service(settings) as live:
        evil = await foreign_page(live, "192.0.2.1", "https://evil.test")
        for _ in range(5):
            with pytest.raises(InvalidStatus, match="403"):
                await live.connect_with(evil)
        with pytest.raises(InvalidStatus, match="429"):
            await live.connect_with(evil)
        await connect_from(live, "192.0.2.2")


async def test_refused_credentials_release_their_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object) -> Identity:
        raise Unauthorized

    async with run_service(make_settings(max_connections=1)) as live:
        with monkeypatch.context() as patch:
            patch.setattr(type(live.service.authenticator), "authenticate", refuse)
            for _ in range(3):
                client = await live.connect_with(await live.options(), welcomed=False)
                assert await client.closed() == UNAUTHORIZED
                await wait_until(lambda: not live.server.server_state.tasks)
        await live.connect()


def test_idle_networks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(admission, "monotonic", lambda: now_s)
    admitting = Admission(make_settings(max_handshakes_per_s_per_address=10))
    largest = 0
    for number in range(10_000):
        now_s += 0.001
        admitting.check_network(f"network {number}")
        admitting.check_network("the same")
        now_s += 0.1
        largest = max(largest, len(admitting._handshakes_from))
    assert largest <= 3


@pytest.mark.hostile(52)
async def test_refusals_are_logged_and_counters_released() -> None:
    with capture_logs() as entries:
        async with run_service(make_settings(max_connections=1)) as live:
            client = await connect_from(live, "192.0.2.1")
            await assert_refused(live, "192.0.2.2", 503)
            await client.close()
            await wait_until(lambda: not live.service.admission._by_network._connections)
            live.service.manager.draining = True
            await assert_refused(live, "192.0.2.3", 503)
    refusals = [entry for entry in entries if entry["event"] == "handshake refused"]
    assert [(entry["client"], entry["reason"]) for entry in refusals] == [
        ("192.0.2.2", "at capacity"),
        ("192.0.2.3", "the service is stopping"),
    ]
