"""The client of Redis: few connections, all alive and shared fairly; and valid URLs."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import structlog
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
# {% if cookiecutter.rooms %}
from redis.exceptions import ResponseError
# {% endif %}

from app.realtime.backplane import ALL, Channel, Subscription
from app.realtime.connections.delivery import Delivery
from app.realtime.errors import Unavailable, WrongThread
from app.realtime.metrics import Metrics
from app.realtime.redis.client import RESERVED, RedisClient
# {% if cookiecutter.rooms %}
from app.realtime.redis.connections import (
    RedisCommand,
    answered_within,
    checked,
    has_malformed_data,
)
# {% else %}
from app.realtime.redis.connections import RedisCommand, answered_within, checked
# {% endif %}
from app.realtime.redis.publisher import RedisPublisher
from app.realtime.redis.topologies import ClusterClient, ServerClient, make_client
from app.realtime.settings import project
from app.realtime.settings.project import read_project

from ..backplane_contract import Inbox, numbered
from ..certificate import server_context
from ..client import DEADLINE_S
from ..live import make_settings
from ..settings.test_settings import startup_error
from .proxy import Proxy, proxy
from .test_backplane import settings_for
from .test_node import AT_REST, CHANNEL, run_node
from .valkey import Valkey

__all__ = ["proxy"]


MAX_CONNECTIONS = 6
BURST = 1_000

AT_ONCE_S = 1e-6
"""The time after which a connection counts as idle."""


@asynccontextmanager
async def run_client(server: Valkey | Proxy, **overrides: object) -> AsyncIterator[RedisClient]:
    """Make a client that may have few connections."""
    overrides = {"redis_max_connections": MAX_CONNECTIONS} | overrides
    client = make_client(settings_for(server, **overrides))
    assert client is not None
    try:
        yield client
    finally:
        await client.aclose()


async def ask_often(client: RedisClient, times: int) -> list[Any]:
    """Send many commands at once; return the replies and failures."""
    asked = (client.ask("ECHO", number, repeatable=True) for number in range(times))
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_a_burst_waits_and_connections_stay_few(valkey: Valkey) -> None:
    async with run_client(valkey) as client, Redis.from_url(valkey.url) as redis:
        expected = [str(number).encode() for number in range(BURST)]
        assert await ask_often(client, BURST) == expected
        assert len(await redis.client_list()) <= MAX_CONNECTIONS + 1


async def test_a_node_has_no_more_connections_than_it_may(valkey: Valkey) -> None:
    async with (
        run_node(valkey, redis_max_connections=MAX_CONNECTIONS) as (node, _),
        Redis.from_url(valkey.url) as redis,
    ):
        published = [node.publish(ALL, numbered(number)) for number in range(BURST)]
        await ask_often(node.client, BURST)
        await asyncio.gather(*published)
        assert len(await redis.client_list()) <= MAX_CONNECTIONS + 1


async def test_all_uses_of_connections_at_once_need_no_more_than_are_reserved(
    valkey: Valkey,
) -> None:
    echo = [("ECHO", b"1")]
    async with (
        run_client(valkey, redis_max_connections=RESERVED + 1) as client,
        client.open_pubsubs(),
        Redis.from_url(valkey.url) as redis,
    ):
        await redis.client_pause(200)
        asking = client.send(echo), client.send(echo), ask_often(client, 20)
        # {% if cookiecutter.rooms %}
        writing = [client.send_in_background(echo) for _ in range(10)]
        published, probed, asked, *written = await asyncio.gather(*asking, *writing)
        assert written == [[b"1"]] * 10
        # {% else %}
        published, probed, asked = await asyncio.gather(*asking)
        # {% endif %}
        assert published == probed == [b"1"]
        assert asked == [str(number).encode() for number in range(20)]


@pytest.mark.parametrize("command", [("CLIENT INFO",), (b"SET", "ä", 1, 2.5, b"\r\n" * 9_999)])
def test_commands_are_packed_as_by_redis_py(command: RedisCommand) -> None:
    assert inspect.getsource(AbstractConnection).count("self.pack_command(") == 2
    connection = checked(Connection)(idle_s=1.0, ping_timeout_s=1.0)
    (packed,) = connection.pack_command(*command)  # redis-py splits a long one
    assert packed == b"".join(Connection().pack_command(*command))


# {% if cookiecutter.rooms %}
@pytest.mark.parametrize(
    ("refusal", "is_malformed"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", True),
        ("ERR user_script:3: attempt to compare nil with number, on @user_script:3.", True),
        ("ERR Error running script (call to f_1): @user_script:5: bad argument", True),
        ("OOM command not allowed when used memory > 'maxmemory'. on @user_script:4.", False),
        ("READONLY You can't write against a read only replica. on @user_script:4.", False),
        ("ERR Error running script (call to f_1): @user_script:5: Script killed by user", False),
        ("TRYAGAIN Multiple keys request during rehashing of slot", False),
        ("BUSY Redis is busy running a script.", False),
        ("LOADING Redis is loading the dataset in memory", False),
        ("CLUSTERDOWN The cluster is down", False),
    ],
)
def test_only_some_refusals_say_that_data_is_malformed(refusal: str, *, is_malformed: bool) -> None:
    assert has_malformed_data(ResponseError(refusal)) == is_malformed


# {% endif %}
async def test_while_redis_does_not_answer_all_commands_fail_in_time_with_one_log_line(
    valkey: Valkey,
) -> None:
    async with run_client(valkey) as client:
        await client.ask("PING", repeatable=True)
        client.timeout_s = 0.2
        valkey.freeze()
        with structlog.testing.capture_logs() as lines:
            async with asyncio.timeout(DEADLINE_S):  # one after the other, they would take longer
                replies = await ask_often(client, BURST)
        assert all(isinstance(reply, Unavailable) for reply in replies)
        assert [line["event"] for line in lines] == ["redis command failed"]
        valkey.thaw()
        client.timeout_s = DEADLINE_S
        assert await client.ask("PING", repeatable=True)


async def test_the_wait_for_a_connection_is_limited(valkey: Valkey) -> None:
    limits = {"redis_max_connections": RESERVED + 1, "handler_timeout_s": 0.05}
    async with run_client(valkey, **limits) as client:
        async with client._turns, asyncio.timeout(DEADLINE_S):
            with pytest.raises(Unavailable):
                await client.ask("PING", repeatable=True)
        assert await client.ask("PING", repeatable=True)


async def test_a_refusal_concerns_nobody_else(valkey: Valkey) -> None:
    async with run_client(valkey) as client:
        refused = client.ask("NONSENSE", repeatable=True)
        replies, failure = await asyncio.gather(
            ask_often(client, 20), asyncio.gather(refused, return_exceptions=True)
        )
        assert isinstance(failure[0], Unavailable)
        assert not any(isinstance(reply, Exception) for reply in replies)


@pytest.mark.parametrize("repeatable", [True, False])
async def test_killed_connections_are_replaced(valkey: Valkey, *, repeatable: bool) -> None:
    async with run_client(valkey) as client, Redis.from_url(valkey.url) as redis:
        for _ in range(3):
            await ask_often(client, 30)
            await redis.client_kill_filter(_type="normal")
            asked = (client.ask("INCR", "count", repeatable=repeatable) for _ in range(30))
            await asyncio.gather(*asked)
        assert await redis.get("count") == b"90"


async def test_a_killed_publishing_connection_loses_nothing(valkey: Valkey) -> None:
    inbox = Inbox()
    async with (
        run_node(valkey, **AT_REST) as (node, gaps),
        Redis.from_url(valkey.url) as redis,
    ):
        await node.confirm(node.subscribe(Subscription(CHANNEL, inbox.deliver)))
        for number in range(5):
            await redis.client_kill_filter(_type="normal")
            await node.publish(CHANNEL, numbered(number))
            assert await inbox.next() == numbered(number)
        assert gaps == []


async def test_a_restart_costs_no_command_its_success(valkey: Valkey) -> None:
    async with run_client(valkey) as client:
        await ask_often(client, 30)
        valkey.kill()
        await valkey.start()
        asked = (client.ask("INCR", "count", repeatable=False) for _ in range(30))
        assert sorted(await asyncio.gather(*asked)) == list(range(1, 31))


async def test_forgotten_connections_are_replaced(proxy: Proxy) -> None:
    """No error reports that they are dead: a ping before the next command detects it."""
    async with run_client(proxy, redis_ping_interval_s=AT_ONCE_S) as client:
        await ask_often(client, 30)
        proxy.forget()
        asked = (client.ask("INCR", "count", repeatable=False) for _ in range(30))
        assert sorted(await asyncio.gather(*asked)) == list(range(1, 31))


async def test_another_thread_is_refused(valkey: Valkey) -> None:
    async with run_client(valkey) as client:
        delivery = Delivery()
        delivery.attach()
        client.check_thread = delivery.check_thread
        with pytest.raises(WrongThread):
            await asyncio.to_thread(asyncio.run, client.ask("PING", repeatable=True))
        assert await client.ask("PING", repeatable=True)


async def test_after_a_lost_answer_only_a_repeatable_command_is_sent_again(
    valkey: Valkey, proxy: Proxy
) -> None:
    async with run_client(proxy) as client, Redis.from_url(valkey.url) as redis:
        proxy.tear_answer_to(b"counted")
        with pytest.raises(Unavailable):
            await client.ask("INCR", "counted", repeatable=False)
        assert await redis.get("counted") == b"1"
        proxy.tear_answer_to(b"counted")
        assert await client.ask("INCR", "counted", repeatable=True) == 3


async def test_a_publishing_connection_that_was_forgotten_loses_nothing(proxy: Proxy) -> None:
    async with run_client(proxy, redis_ping_interval_s=AT_ONCE_S) as client:
        metrics = Metrics("1.0")
        publisher = RedisPublisher(client, make_settings(), metrics)
        running = asyncio.create_task(publisher.run())

        def plain(channel: Channel, payloads: Sequence[bytes]) -> RedisCommand:
            return client.publish_command, client.name(channel), payloads[0]

        try:
            await publisher.publish(plain, ALL, numbered(0))
            proxy.forget()
            await publisher.publish(plain, ALL, numbered(1))
            assert b"ws_redis_publish_failures_total 0.0" in metrics.text()
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_a_busy_process_is_not_taken_for_a_silent_server() -> None:
    loop = asyncio.get_running_loop()
    answer = loop.create_future()

    def stall() -> None:
        started = perf_counter()
        while perf_counter() < started + 0.3:
            pass
        loop.call_soon(loop.call_soon, answer.set_result, "answer")

    async with answered_within(0.1):
        loop.call_soon(stall)
        assert await answer == "answer"
    with pytest.raises(TimeoutError):
        async with answered_within(0.01):
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis://localhost/abc", "number of a database"),
        ("redis://localhost/1/2", "number of a database"),
        ("redis://localhost/-1", "number of a database"),
        ("redis://localhost?db=-1", "number of a database"),
        ("redis://localhost?decode_responses=true", "no option 'decode_responses'"),
        ("redis://localhost?timeout=5", "no option 'timeout'"),
        ("redis://localhost?max_connections=1", "no option 'max_connections'"),
        ("redis://localhost?usrname=a", "no option 'usrname'"),
        ("redis://localhost?ssl_cert_reqs=none", "write rediss://"),
        ("rediss://localhost?ssl_cert_reqs=maybe", "none, optional or required"),
        ("rediss://localhost?ssl_ca_certs=/no/such/file", "does not name a file"),
        ("rediss://:hunter@localhost?ssl_ciphers=ZZZ", "No cipher can be selected"),
        ("rediss://localhost?ssl_min_version=1", "Unsupported TLS/SSL version"),
        ("rediss://localhost?ssl_min_version=99999999999999999999", "options for TLS"),
        ("redis://:hunter#2@localhost:6379/0", "percent-encode"),
        ("redis://:hunter/2@localhost:6379/0", "percent-encode"),
        ("redis://:hunter?2@localhost:6379/0", "percent-encode"),
        ("redis://user:hunter#2@localhost", "percent-encode"),
        ("redis://localhost/0?password=hunter#2", "percent-encode"),
        ("unix:///redis.sock?password=hunter#2", "percent-encode"),
    ],
)
def test_a_bad_url_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, hint: str) -> None:
    line = startup_error(monkeypatch, REDIS_URL=url)
    assert line.startswith("error: REDIS_URL: ")
    assert hint in line
    assert "hunter" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost/",
        "redis://localhost:6379/15",
        "redis://user:p%23%2F%3F%40@localhost:6379/0",
        "redis://localhost?db=1&username=a&password=b&client_name=c",
        "rediss://localhost?ssl_cert_reqs=none&ssl_check_hostname=false",
        "rediss://localhost?ssl_min_version=771&ssl_ciphers=ECDHE%2BAESGCM",
        "unix:///run/user@host/redis.sock?db=1",
    ],
)
def test_valid_urls_are_accepted(url: str) -> None:
    assert make_client(make_settings(redis_url=url)) is not None


def test_names_begin_with_the_project_and_channels_have_the_database() -> None:
    client = make_client(make_settings(redis_url="redis://localhost/3"))
    assert client is not None
    assert client.name(ALL) == read_project().name + ":3:{all}"
    assert client.key(ALL, "what") == read_project().name + ":{all}:what"
    assert client.channel(client.name(ALL).encode()) == ALL


def test_without_a_project_file_the_prefix_has_to_be_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(project, "PYPROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(project, "packages_distributions", dict)
    line = startup_error(monkeypatch, REDIS_URL="redis://localhost")
    assert line.startswith("error: REDIS_PREFIX: ")
    assert "does not name the project" in line
    assert make_settings(redis_url=None).redis_prefix == ""
    settings = make_settings(redis_url="redis://localhost", redis_prefix="mine:")
    assert settings.redis_prefix == "mine:"


def test_a_prefix_that_ends_in_a_digit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`shop1` in database 1 and `shop` in database 11 would have the same channels."""
    line = startup_error(monkeypatch, REDIS_URL="redis://localhost/1", REDIS_PREFIX="shop1")
    assert line.startswith("error: REDIS_PREFIX: ")
    assert "must not end in a digit" in line


def test_an_installed_project_has_the_prefix_of_its_distribution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(project, "PYPROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(project, "packages_distributions", lambda: {"app": ["pytest"]})
    assert make_settings(redis_url="redis://localhost").redis_prefix == "pytest:"


def test_sentinels_have_tls_and_a_user_of_their_own(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    server_context(authority)
    settings = make_settings(
        redis_url=f"rediss://app:secret@a:1,b:2/0?ssl_ca_certs={authority}&ssl_check_hostname=false",
        redis_sentinel="main",
        redis_sentinel_username="watcher",
        redis_sentinel_password="watchword",
    )
    client = make_client(settings)
    assert isinstance(client, ServerClient)
    for sentinel, address in zip(client.sentinels, [("a", 1), ("b", 2)], strict=True):
        pool = sentinel.connection_pool
        options = pool.connection_kwargs
        assert (options["host"], options["port"]) == address
        assert (options["username"], options["password"]) == ("watcher", "watchword")
        assert (options["ssl_ca_certs"], options["ssl_check_hostname"]) == (str(authority), False)
        assert pool.connection_class.__name__ == "SSLConnection"
    assert isinstance(client.redis, Redis)
    options = client.redis.connection_pool.connection_kwargs
    assert (options["username"], options["password"]) == ("app", "secret")
    assert options["ssl_ca_certs"] == str(authority)


def test_a_cluster_has_tls_with_all_options(tmp_path: Path) -> None:
    settings = make_settings(
        redis_url=f"rediss://app:secret@a:1,b:2?ssl_ca_path={tmp_path}&ssl_password=hush",
        redis_cluster=True,
    )
    client = make_client(settings)
    assert isinstance(client, ClusterClient)
    assert isinstance(client.redis, RedisCluster)
    nodes = client.redis.nodes_manager.startup_nodes.values()
    assert {(node.host, node.port) for node in nodes} == {("a", 1), ("b", 2)}
    listening = ConnectionPool(**client._options).make_connection()  # type: ignore[no-untyped-call]
    for connection in (listening, *(node.acquire_connection() for node in nodes)):
        assert isinstance(connection, SSLConnection)
        tls = connection.ssl_context
        assert (tls.ca_path, tls.password) == (str(tmp_path), "hush")
        assert (connection.username, connection.password) == ("app", "secret")


async def test_an_envelope_of_the_next_version_is_delivered(valkey: Valkey) -> None:
    inbox = Inbox()
    async with run_node(valkey) as (node, _), Redis.from_url(valkey.url) as redis:
        await node.confirm(node.subscribe(Subscription(CHANNEL, inbox.deliver)))
        newer = b'{"sender":"alice","data":1,"exclude":null,"priority":"high"}'
        await redis.publish(node.client.name(CHANNEL), newer)
        assert await inbox.next() == numbered(1)
