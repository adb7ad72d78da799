"""A user's subscription begins before the first connection counts, and ends with the last."""

import asyncio

from app.realtime.backplane import Backplane, Subscription
from app.realtime.connections.delivery import Delivery
from app.realtime.connections.manager import ConnectionManager
from app.realtime.protocol import REPLACED, TRY_AGAIN_LATER

from ..live import make_settings
from ..recording_wire import open_connection
from .test_manager import make_manager


async def test_connections_that_are_closing_do_not_count() -> None:
    manager = make_manager(max_connections_per_user=2)
    staying, leaving, new = (open_connection() for _ in range(3))
    await manager.add(staying)
    await manager.add(leaving)
    leaving.close(TRY_AGAIN_LATER)
    await manager.add(new)
    manager.replace_older(new)
    assert staying.closed is None


async def test_a_connection_is_added_after_its_subscription_is_confirmed() -> None:
    asked, confirmed = asyncio.Event(), asyncio.Event()

    class SlowBackplane(Backplane):
        async def confirm(self, subscription: Subscription) -> None:
            asked.set()
            await confirmed.wait()

    adding = asyncio.create_task(
        ConnectionManager(make_settings(), SlowBackplane(), Delivery()).add(open_connection())
    )
    await asked.wait()
    assert not adding.done()
    confirmed.set()
    await adding


async def test_the_oldest_connection_stays_until_a_newer_one_is_open() -> None:
    manager = make_manager(max_connections_per_user=2)
    connections = [open_connection() for _ in range(4)]
    for connection in connections:
        await manager.add(connection)
    assert not [connection for connection in connections if connection.closed]
    manager.replace_older(connections[2])
    assert [connection.closed for connection in connections] == [REPLACED, None, None, None]
    manager.replace_older(connections[3])
    assert [connection.closed for connection in connections] == [REPLACED, REPLACED, None, None]


async def test_removing_the_last_connection_ends_the_subscription() -> None:
    manager = make_manager()
    first, second = open_connection(), open_connection()
    await manager.add(first)
    await manager.add(second)
    manager.remove(first)
    manager.remove(first)
    assert list(manager) == [second]
    await manager.send_to_user("alice", 1)
    assert len(second.outbox) == 1
    manager.remove(second)
    await manager.send_to_user("alice", 2)
    assert len(second.outbox) == 1
    assert not manager._users
