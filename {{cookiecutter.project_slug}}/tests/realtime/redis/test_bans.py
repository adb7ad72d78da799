"""A ban applies to every node. A connection is refused while bans cannot be looked up."""

from app.realtime.protocol import REVOKED, TRY_AGAIN_LATER

from ..http.test_bans import disconnect, everybody_is_alice
from ..live import run_service, wait_until
from .test_backplane import settings_for
from .valkey import Valkey

__all__ = ["everybody_is_alice"]  # a fixture


async def test_a_ban_applies_to_every_node_until_it_is_lifted(shared_valkey: Valkey) -> None:
    settings = settings_for(shared_valkey)
    async with run_service(settings) as first, run_service(settings) as second:
        clients = [await node.connect() for node in (first, second)]
        await disconnect(first, 60)
        for client in clients:
            assert await client.closed() == REVOKED
        for node in (first, second):
            refused = await node.connect_with(await node.options(), welcomed=False)
            assert await refused.closed() == REVOKED
        await disconnect(second, 0)
        for node in (first, second):
            await node.connect()


async def test_a_connection_is_refused_while_bans_cannot_be_looked_up(valkey: Valkey) -> None:
    async with run_service(settings_for(valkey)) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        options = await live.options()
        valkey.kill()
        await wait_until(lambda: not live.service.backplane.healthy)
        refused = await live.connect_with(options, welcomed=False)
        assert await refused.closed() == TRY_AGAIN_LATER
        ban = {"user": "alice", "ban_s": 60}
        assert (await live.post("/disconnect", ban)).status_code == 503
