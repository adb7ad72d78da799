"""A service is ready only while Redis executes its commands."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from app.realtime.backplane import ALL, Channel, Subscription, user_channel
from app.realtime.connections.delivery import Delivery
from app.realtime.jobs import keep_running
from app.realtime.metrics import Metrics
from app.realtime.redis.shared import in_redis

from ..client import DEADLINE_S
from ..live import Live, run_service, wait_until, wait_until_async
from ..server.test_process import PROJECT
from ..test_idempotency import publish
from .test_backplane import settings_for
from .test_faults import is_ready
from .test_node import run_node
from .valkey import Valkey

REPLICA = "REPLICAOF 127.0.0.1 1"
PRIMARY = "REPLICAOF NO ONE"

PREVENTED = pytest.mark.parametrize(
    ("prevent", "allow"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("BGSAVE", "CONFIG SET stop-writes-on-bgsave-error no"),
    ],
    ids=["full", "no replicas", "cannot save"],
)


async def do(valkey: Valkey, redis: Redis, command: str) -> None:
    """Run a command of an operator; a save is to fail."""
    if command == "BGSAVE":
        (valkey.directory / "dump.rdb").mkdir(exist_ok=True)
        await redis.config_set("save", "3600 1")

        async def has_failed() -> bool:
            return bool((await redis.info("persistence"))["rdb_last_bgsave_status"] == "err")

        await redis.execute_command(command)  # type: ignore[no-untyped-call]
        await wait_until_async(has_failed)
    else:
        await redis.execute_command(*command.split())  # type: ignore[no-untyped-call]


def healthy(live: Live) -> Callable[[], bool]:
    return lambda: live.service.backplane.healthy


@PREVENTED
async def test_a_service_is_not_ready_while_redis_refuses_and_clients_miss_nothing(
    valkey: Valkey, redis: Redis, prevent: str, allow: str
) -> None:
    async with run_service(settings_for(valkey)) as live:
        await wait_until(healthy(live))
        client = await live.connect()
        with structlog.testing.capture_logs() as lines:
            await do(valkey, redis, prevent)
            await wait_until(lambda: not live.service.backplane.healthy)
            assert not await is_ready(live)
            await do(valkey, redis, allow)
            await wait_until(healthy(live))
        assert await is_ready(live)
        assert [line["event"] for line in lines].count("redis refuses to work") == 1
        assert live.counts()["ws_redis_gaps_total"] == 0
        assert await client.is_quiet()


@PREVENTED
async def test_a_service_that_starts_waits_until_redis_works(
    valkey: Valkey, redis: Redis, prevent: str, allow: str
) -> None:
    await do(valkey, redis, prevent)
    with structlog.testing.capture_logs() as lines:
        async with run_service(settings_for(valkey)) as live:
            await wait_until(lambda: "redis refuses to work" in [line["event"] for line in lines])
            assert not await is_ready(live)
            await do(valkey, redis, allow)
            await wait_until(healthy(live))


async def test_a_permission_that_is_taken_away_later_is_waited_for(
    valkey: Valkey, redis: Redis
) -> None:
    async with run_node(valkey) as (node, gaps):
        await do(valkey, redis, "ACL SETUSER default -publish")
        await wait_until(lambda: not node.healthy)
        await do(valkey, redis, "ACL SETUSER default +publish")
        await wait_until(lambda: node.healthy)
        assert gaps == []


async def test_connections_to_a_demoted_primary_are_replaced(valkey: Valkey, redis: Redis) -> None:
    """All connections are new afterwards, since the address may lead to another server."""
    async with run_service(settings_for(valkey)) as live:
        await wait_until(healthy(live))
        assert await publish(live, 1, "key") == 202
        before = {client["id"] for client in await redis.client_list()}
        own = {str(await redis.client_id())}
        await do(valkey, redis, REPLICA)
        await wait_until(lambda: not live.service.backplane.healthy)
        assert not await is_ready(live)
        await do(valkey, redis, PRIMARY)
        await wait_until(healthy(live))
        assert live.counts()["ws_redis_gaps_total"] == 1
        after = {client["id"] for client in await redis.client_list()}
        assert before & after <= own


async def test_while_a_server_loads_its_data_the_service_waits_and_logs_it_once(
    valkey: Valkey, redis: Redis
) -> None:
    for number in range(200):
        await redis.set(f"other:{number}", secrets.token_hex(2_000))
    async with run_service(settings_for(valkey)) as live:
        await wait_until(healthy(live))
        await redis.save()
        valkey.kill()
        await wait_until(lambda: not live.service.backplane.healthy)
        with structlog.testing.capture_logs() as lines:
            often = ("--loading-process-events-interval-bytes", "1024")
            await valkey.start("--key-load-delay", "50000", *often)
            loading = "Redis is loading the dataset"
            await wait_until(lambda: any(loading in line.get("error", "") for line in lines))
            assert (await redis.info("persistence"))["loading"]
            assert not await is_ready(live)
            await redis.config_set("key-load-delay", 0)
            await wait_until(healthy(live))
        assert [line["event"] for line in lines].count("redis connected") == 1
        assert live.counts()["ws_redis_gaps_total"] == 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (REPLICA, "the server is a replica"),
        ("ACL SETUSER default -publish", "the user lacks a permission"),
        ("ACL SETUSER default -set", "the user lacks a permission"),
        ("ACL SETUSER default -getdel", "the user lacks a permission"),
        ("ACL SETUSER default -subscribe", "the user lacks a permission"),
        ("ACL SETUSER default resetchannels &other:*", "the user lacks a permission"),
        ("ACL SETUSER default resetkeys ~other:*", "the user lacks a permission"),
    ],
    ids=str,
)
async def test_a_permanent_refusal_by_redis_stops_a_service_at_start(
    valkey: Valkey, redis: Redis, command: str, reason: str
) -> None:
    await do(valkey, redis, command)
    await check_refusal(valkey, reason)


async def check_refusal(valkey: Valkey, reason: str) -> None:
    """Start what a node shares through Redis; it has to stop the service and log why."""
    settings, stops = settings_for(valkey), asyncio.Event()
    shared = in_redis(settings, Metrics("1.0"), Delivery(), lambda: None)
    assert shared is not None
    shared.make_map("keys")
    shared.backplane.subscribe(Subscription(ALL, lambda envelope: None))
    with structlog.testing.capture_logs() as lines:
        async with asyncio.timeout(DEADLINE_S):
            await keep_running(shared.jobs[0], stops.set)
    assert stops.is_set()
    (why,) = [line["reason"] for line in lines if line["event"] == "the service stops"]
    assert f"REDIS_URL: {reason}" in why


@pytest.fixture
async def restricted(valkey: Valkey, redis: Redis) -> AsyncIterator[Live]:
    """Run a service as the user that the documents recommend, who must meet no refusal."""
    page = (PROJECT / "docs" / "operating.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    (ACL SETUSER .*)$", page, re.MULTILINE)
    assert line.count("@dangerous") == line.count("-@dangerous") == 1
    assert " resetchannels &" in line  # Redis 6.2 gives a new user every channel
    await do(valkey, redis, line)
    (user,), (password,), (prefix,) = (
        re.findall(pattern, line) for pattern in (r"SETUSER (\S+)", r" >(\S+)", r" ~(\S+)\*")
    )
    url = f"{valkey.url}?username={user}&password={password}"
    async with run_service(settings_for(url, redis_prefix=prefix)) as live:
        await wait_until(healthy(live))
        yield live
        assert await redis.acl_log() == []


async def test_the_user_in_the_documents_may_do_all_that_is_needed(restricted: Live) -> None:
    client = await restricted.connect("alice")
    assert (await client.ask(type="broadcast", data=1))["type"] == "ok"
    assert (await client.ask(type="send", to=client.user, data=1))["type"] == "ok"
    for _ in range(2):
        assert await publish(restricted, 1, "once") == 202


SHARING = pytest.mark.parametrize(
    ("here", "there"),
    [((0, "one:"), (0, "other:")), ((0, "one:"), (1, "one:"))],
    ids=["projects", "databases"],
)

Place = tuple[int, str]


@asynccontextmanager
async def two_services(valkey: Valkey, here: Place, there: Place) -> AsyncIterator[list[Live]]:
    """Run two services that share a Redis, each with a database and a prefix."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                run_service(settings_for(f"{valkey.url}?db={database}", redis_prefix=prefix))
            )
            for database, prefix in (here, there)
        ]


@SHARING
async def test_two_services_that_share_a_redis_hear_nothing_of_each_other(
    valkey: Valkey, here: Place, there: Place
) -> None:
    async with two_services(valkey, here, there) as (first, second):
        await wait_until(lambda: healthy(first)() and healthy(second)())
        alice, strange = await first.connect("alice"), await second.connect("alice")
        assert (await alice.ask(type="broadcast", data="all", echo=True))["type"] == "ok"
        users = dict.fromkeys((alice.user, strange.user))
        for user in users:
            assert (await alice.ask(type="send", to=user, data="one"))["type"] == "ok"
        for user in users:
            assert (await first.post("/disconnect", {"user": user})).status_code == 202
        assert (await alice.closed())[0] == 4503
        assert await strange.is_quiet()
        for live in (first, second):  # the key is used twice, but not in one service
            assert await publish(live, "backend", "key") == 202
        assert (await strange.receive("message"))["data"] == "backend"


async def test_what_is_done_for_a_connection_does_not_grow_with_what_the_node_hosts(
    valkey: Valkey,
) -> None:
    """Counts calls and accesses, not time."""
    few, many = [await work_per_connection(valkey, hosted) for hosted in (100, 5_000)]
    assert many <= 1.25 * few


class Counting(dict[Channel, Subscription]):
    """The subscriptions of a node; it counts how often one is accessed."""

    looks = 0

    def __getitem__(self, channel: Channel) -> Subscription:
        self.looks += 1
        return super().__getitem__(channel)

    def get(self, channel: Channel, default: Any = None) -> Any:
        """Return the subscription to a channel."""
        self.looks += 1
        return super().get(channel, default)

    def __iter__(self) -> Iterator[Channel]:
        for channel in super().__iter__():
            self.looks += 1
            yield channel

    def keys(self) -> Any:
        """Count one access for each."""
        self.looks += len(self)
        return super().keys()

    def values(self) -> Any:
        """Count one access for each."""
        self.looks += len(self)
        return super().values()

    def items(self) -> Any:
        """Count one access for each."""
        self.looks += len(self)
        return super().items()


async def work_per_connection(valkey: Valkey, hosted: int) -> float:
    """Return how often subscriptions are accessed when one channel is added and removed."""
    async with run_node(valkey) as (node, _):
        own = [Subscription(user_channel(f"user-{n}"), ignore) for n in range(hosted)]
        for subscription in own:
            node.subscribe(subscription)
        for subscription in own:
            await node.confirm(subscription)
        counting = node.hosted = Counting(node.hosted)
        for number in range(100):
            newcomer = node.subscribe(Subscription(user_channel(f"newcomer-{number}"), ignore))
            await node.confirm(newcomer)
            node.unsubscribe(newcomer)
        return counting.looks / 100


def ignore(envelope: object) -> None:
    """Take a message."""
