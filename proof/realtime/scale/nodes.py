"""Light nodes: the engine with members, without sockets of clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, patch

from app.realtime.redis.connections import RedisCommand
from app.realtime.rooms.history import room_channel
from app.realtime.service import Service

from ..engine import make_app
from ..live import make_settings
from ..recording_wire import open_connection

ENDLESS_S = 3_600.0
"""The lease while other operations are measured, so that there are no renewals."""

QUIET = {
    "redis_timeout_s": 30.0,
    "redis_ping_interval_s": ENDLESS_S,
    "redis_probe_interval_s": ENDLESS_S,
}
"""Settings without what nodes do all the time; and one process with all of them may be late."""

AT_ONCE = 64
"""Operations in flight."""

POLL_S = 0.3

DATA = "x" * 100


class Nodes:
    """Nodes that are running, each with so many members of each room."""

    def __init__(self, services: Sequence[Service[Any, Any]], rooms: int, members: int) -> None:
        self._services = services
        self._rooms = [f"room-{number}" for number in range(rooms)]
        self._members = [
            [
                open_connection(user=f"user-{node}-{number}", delivery=service.delivery)
                for number in range(members)
            ]
            for node, service in enumerate(services)
        ]

    async def join(self) -> None:
        """Have all members join all rooms."""

        async def join(number: int) -> None:
            number, node = divmod(number, len(self._services))
            number, room = divmod(number, len(self._rooms))
            member = self._members[node][number]
            await self._services[node].rooms.join(member, self._rooms[room])

        members = len(self._members) * len(self._members[0])
        await many(join, members * len(self._rooms))

    async def publish(self, count: int) -> None:
        """Publish messages from one node, to all rooms in turn."""
        rooms = self._services[0].rooms
        await many(lambda n: rooms.publish(self._rooms[n % len(self._rooms)], DATA), count)

    async def ask(self, count: int) -> None:
        """Ask for the members of all rooms in turn, from all nodes."""

        async def ask(number: int) -> None:
            number, room = divmod(number, len(self._rooms))
            service = self._services[number % len(self._services)]
            await service.rooms.presence(self._rooms[room])

        await many(ask, count)

    async def publications(self, batch: int) -> dict[str, list[RedisCommand]]:
        """Return, by channel, the commands with which a node publishes so many messages to it."""
        backplane: Any = self._services[0].backplane
        client, commands = backplane.client, {}
        for room in self._rooms:
            with patch.object(client, "send", AsyncMock(wraps=client.send)) as send:
                sent = [self._services[0].rooms.publish(room, DATA) for _ in range(batch)]
                await asyncio.gather(*sent)
            name = client.name(room_channel(room))
            commands[name] = [each for call in send.await_args_list for each in call.args[0]]
        return commands


async def many(start: Callable[[int], Awaitable[object]], count: int) -> None:
    """Run operations with these numbers, some at the same time."""
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*map(start, range(first, min(first + AT_ONCE, count))))


@asynccontextmanager
async def run_nodes(
    settings: dict[str, object], nodes: int, rooms: int, members: int, lease_s: float
) -> AsyncIterator[Nodes]:
    """Run nodes, each with so many members of each room, that renew leases of this length."""
    more = QUIET | {"max_rooms_per_connection": rooms, "presence_lease_s": lease_s}
    async with AsyncExitStack() as stack:
        services = []
        for _ in range(nodes):
            app = make_app(make_settings(**settings, **more))
            await stack.enter_async_context(app.router.lifespan_context(app))
            services.append(app.service)
        while not all(service.backplane.healthy for service in services):
            await asyncio.sleep(POLL_S)
        # Open the connections for commands.
        await asyncio.gather(*(each.rooms.history("unused") for each in services * AT_ONCE))
        yield Nodes(services, rooms, members)
