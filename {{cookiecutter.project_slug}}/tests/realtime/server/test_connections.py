"""HTTP connections: their limits, and the checks of a request."""

import sys
from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from ..live import Live, make_settings, run_service, wait_until
from ..raw_client import RawClient, handshake, raw_connection

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"

NO_TRUSTED_PROXY = {"forwarded_allow_ips": "192.0.2.1"}
"""By default this machine is a trusted proxy, whose connections do not count by network."""

OTHER = "127.0.0.2"

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a second local address")


async def connect(
    live: Live, stack: AsyncExitStack, data: bytes = b"", source: str = ""
) -> RawClient:
    """Return a client that has sent ``data``, and is connected until the end of the test."""
    connection = raw_connection("127.0.0.1", live.port, source=source)
    client = await stack.enter_async_context(connection)
    client.send(data)
    return client


async def status(client: RawClient) -> int:
    """Return the status of the answer."""
    return int((await client.head()).split()[1])


def open_from(live: Live, network: str = "127.0.0.1") -> int:
    """Return how many HTTP connections of a network are open."""
    return live.service.admission.http._connections[network]


@pytest.mark.hostile(87)
@only_linux
@pytest.mark.parametrize("data", [b"", LIVEZ, LIVEZ[:20]], ids=["silent", "idle", "unfinished"])
async def test_http_connections_of_one_network_are_limited(data: bytes) -> None:
    settings = make_settings(max_connections_per_address=3, **NO_TRUSTED_PROXY)
    async with run_service(settings) as live, AsyncExitStack() as stack:
        clients = [await connect(live, stack, data) for _ in range(3)]
        await wait_until(lambda: open_from(live) == 3)
        with capture_logs() as lines:
            refused = await connect(live, stack)
            head = await refused.head()
        assert head.startswith("HTTP/1.1 429 ")
        assert "retry-after: 5" in head
        ((event, refused_as, client),) = [
            (line["event"], line["status"], line["client"]) for line in lines
        ]
        assert (event, refused_as, client) == ("request refused", 429, "127.0.0.1")
        assert live.counts()["ws_requests_refused_total 429"] == 1
        assert await status(await connect(live, stack, LIVEZ, OTHER)) == 200
        for each in (clients[0], refused):
            each.vanish()
        await wait_until(lambda: open_from(live) == 2)
        assert await status(await connect(live, stack, LIVEZ)) == 200


async def test_websockets_do_not_count_as_http_connections() -> None:
    settings = make_settings(max_connections_per_address=3, **NO_TRUSTED_PROXY)
    async with run_service(settings) as live, AsyncExitStack() as stack:
        for _ in range(3):
            client = await connect(live, stack, handshake(await live.options()))
            await client.upgraded()
        assert await status(await connect(live, stack, LIVEZ)) == 200
        assert await status(await connect(live, stack, handshake(await live.options()))) == 429
    assert not live.service.admission.http._connections


async def test_connections_of_a_trusted_proxy_do_not_count_by_network() -> None:
    settings = make_settings(max_connections_per_address=1)
    async with run_service(settings) as live, AsyncExitStack() as stack:
        for _ in range(5):
            assert await status(await connect(live, stack, LIVEZ)) == 200


@pytest.mark.hostile(88)
@pytest.mark.parametrize(
    ("hosts", "version", "expected"),
    [
        ([], "1.1", 400),
        (["a", "a"], "1.1", 400),
        (["a", "b"], "1.1", 400),
        (["a b"], "1.1", 400),
        (["a/b"], "1.1", 400),
        (["user@a"], "1.1", 400),
        (["a:b"], "1.1", 400),
        (["a", "b"], "1.0", 400),
        (["example.com:8000"], "1.1", 200),
        (["[::1]:8000"], "1.1", 200),
        ([""], "1.1", 200),
        ([], "1.0", 200),
    ],
)
async def test_a_request_needs_one_valid_host(
    live: Live, hosts: list[str], version: str, expected: int
) -> None:
    lines = [f"GET /livez HTTP/{version}", *(f"Host: {host}" for host in hosts), "", ""]
    async with raw_connection("127.0.0.1", live.port) as client:
        client.send("\r\n".join(lines).encode())
        assert await status(client) == expected


@pytest.mark.hostile(89)
@pytest.mark.parametrize("path", ["/publish/", "/livez/", "/ws/"])
async def test_no_redirect_leads_to_the_host_of_a_request(live: Live, path: str) -> None:
    async with raw_connection("127.0.0.1", live.port) as client:
        lines = [f"POST {path} HTTP/1.1", "Host: evil.test", "Content-Length: 0", "", ""]
        client.send("\r\n".join(lines).encode())
        head = await client.head()
    assert head.startswith("HTTP/1.1 404 ")
    assert "evil.test" not in head
