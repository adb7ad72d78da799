"""Two nodes on a real Valkey: delivery across them, and what happens when it goes away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
import structlog
from redis.asyncio import Redis

from app.realtime import RealtimeSettings
from app.realtime.backplane import Backplane
from app.realtime.protocol import REVOKED
from app.realtime.redis.topologies import make_client
from dev import fresh_secrets

from ..client import STOP_S
from ..connections.test_manager import Notice
from ..live import BACKEND, Live, make_settings, run_service, wait_until
from ..server.test_process import next_line, run_process
from ..settings.test_settings import startup_error
from .valkey import Valkey


class Reachable(Protocol):
    """A server, or a proxy in front of one."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...


def settings_for(server: Reachable | str, **overrides: object) -> RealtimeSettings:
    """Return settings that detect failures soon, but leave a slow server time to answer."""
    url = server if isinstance(server, str) else server.url
    values = {
        "redis_prefix": "ws:",
        "redis_timeout_s": 5.0,
        "redis_ping_interval_s": 0.2,
        "redis_probe_interval_s": 0.2,
        "redis_retry_max_s": 0.2,
    }
    return make_settings(redis_url=url, **(values | overrides))


async def test_outages_and_malformed_messages_of_redis_are_counted(valkey: Valkey) -> None:
    async with run_service(settings_for(valkey)) as live, Redis.from_url(valkey.url) as redis:
        metrics = live.service.metrics
        await wait_until(lambda: "ws_redis_up 1.0" in metrics.text().decode())
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                await redis.publish("ws:0:{all}", "nonsense")
            await wait_until(lambda: "ws_redis_malformed_total 3.0" in metrics.text().decode())
        assert [line["event"] for line in lines].count("malformed envelope dropped") == 1
        client = await live.connect()
        valkey.kill()
        await client.ask(type="broadcast", data=1)
        await wait_until(lambda: "ws_redis_up 0.0" in metrics.text().decode())
        assert "ws_redis_publish_failures_total 1.0" in metrics.text().decode()
        assert "ws_redis_reconnections_total 0.0" in metrics.text().decode()
        await valkey.start()
        await wait_until(lambda: "ws_redis_gaps_total 1.0" in metrics.text().decode())
        assert "ws_redis_reconnections_total 1.0" in metrics.text().decode()
        assert "ws_redis_up 1.0" in metrics.text().decode()


@pytest.mark.hostile(65)
async def test_the_service_starts_without_the_server_and_waits_for_it(valkey: Valkey) -> None:
    valkey.kill()
    async with run_service(settings_for(valkey)) as live:
        assert (await live.get("/readyz")).json() == {"status": "backplane lost"}
        assert (await live.post("/publish", {"data": 1})).status_code == 503
        await valkey.start()
        await wait_until(lambda: live.service.backplane.healthy)
        assert (await live.get("/readyz")).status_code == 200
        assert live.counts()["ws_redis_reconnections_total"] == 0


@pytest.mark.hostile(66)
@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("password=wrong", "user or password"),
        ("password=right&db=99", "database"),
        ("", "user or password"),
    ],
)
async def test_a_server_that_refuses_the_service_ends_it(
    valkey: Valkey, tmp_path: Path, query: str, refused: str
) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await redis.config_set("requirepass", "right")
    environment = fresh_secrets() | {"REDIS_URL": f"{valkey.url}?{query}", "PORT": "0"}
    async with run_process(tmp_path, **environment) as process:
        line = (await next_line(process, "the service stops")).string
        assert f"REDIS_URL: the server refuses the {refused}" in line
        assert "wrong" not in line
        async with asyncio.timeout(STOP_S):
            await process.communicate()
        assert process.returncode == 1


@pytest.mark.hostile(68)
async def test_clients_hear_of_an_outage_and_of_its_end(valkey: Valkey) -> None:
    async with run_service(settings_for(valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        client = await live.connect("alice")
        valkey.kill()
        error = await client.ask(type="broadcast", data=1, echo=True)
        assert (error["code"], error["retry"]) == ("unavailable", True)
        await valkey.start()
        assert await client.receive() == {"type": "resync", "room": None}
        await client.ask(type="broadcast", data=2, echo=True)
        assert (await client.receive("message"))["data"] == 2


@contextlib.asynccontextmanager
async def two_nodes(
    valkey: Valkey, proxy: Reachable | None = None, **overrides: object
) -> AsyncIterator[tuple[Live, Live]]:
    """Run two nodes. With a proxy, the first one reaches the server only through it."""
    settings = settings_for(valkey, **overrides)
    of_first = settings_for(proxy, **overrides) if proxy else settings
    async with run_service(of_first) as first, run_service(settings) as second:
        await wait_until(lambda: first.service.backplane.healthy)
        await wait_until(lambda: second.service.backplane.healthy)
        yield first, second


@pytest.mark.hostile(72, 74)
async def test_messages_cross_nodes_both_ways_and_arrive_once(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        here = await first.connect("alice")
        there = await second.connect("bob")
        for sender, receiver in ((here, there), (there, here)):
            direct = await sender.ask(type="send", to=receiver.user, data="direct")
            assert direct == {"type": "ok", "id": "ask", "reached": 1}
            assert (await receiver.receive("message"))["data"] == "direct"
            assert (await sender.ask(type="broadcast", data="all"))["type"] == "ok"
            assert (await receiver.receive("message"))["data"] == "all"
        assert (await second.post("/publish", {"data": 3})).status_code == 202
        for client in (here, there):
            assert (await client.receive("message"))["data"] == 3
            assert await client.is_quiet()


async def test_frames_of_the_team_reach_users_on_every_node(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        here = await first.connect("alice")
        there = await second.connect("bob")
        manager, frame = first.service.manager, Notice(text="ü\n")
        assert await manager.send_frame(frame, here.user, there.user, "nobody") == [1, 1, 0]
        await manager.broadcast_frame(frame)
        await manager.broadcast_frame(frame, exclude=there.welcome["connection"])
        for client, count in ((here, 3), (there, 2)):
            for _ in range(count):
                assert await client.receive() == {"type": "notice", "text": "ü\n", "from": None}
            assert await client.is_quiet()


async def test_every_node_knows_where_a_user_is(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        there = await second.connect("alice")
        users = {there.user}
        assert await first.service.manager.is_online(there.user)
        users.add((await first.connect("alice")).user)
        for user in users:
            for node in (first, second):
                nodes = 3 - len(users)  # some styles give each connection a user of its own
                state = (await node.get(f"/users/{user}", key=BACKEND)).json()
                assert state == {"online": True, "nodes": nodes}
                answer = await node.post("/publish", {"user": user, "data": 1})
                assert answer.json()["reached"] == nodes
        assert not await first.service.manager.is_online("nobody")


@pytest.mark.hostile(43)
async def test_a_user_is_disconnected_on_every_node(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        there = await second.connect("alice")
        here = await first.connect("alice")
        for user in dict.fromkeys((here.user, there.user)):
            assert (await first.post("/disconnect", {"user": user})).status_code == 202
        for client in (here, there):
            assert await client.closed() == REVOKED


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost", "redis://a..b:6379", "redis://localhost:port"]
)
def test_a_bad_url_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    line = startup_error(monkeypatch, REDIS_URL=url)
    assert line.startswith("error: REDIS_URL: ")
    assert "redis://localhost:6379/0" in line


def test_without_a_url_the_service_is_a_single_node() -> None:
    assert make_client(make_settings()) is None


async def test_without_a_url_the_service_uses_the_local_backplane() -> None:
    async with run_service() as live:
        assert type(live.service.backplane) is Backplane
