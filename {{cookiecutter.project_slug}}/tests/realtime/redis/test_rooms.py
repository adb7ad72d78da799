"""Rooms over two nodes on a real Valkey."""

from .test_backplane import two_nodes
from .valkey import Valkey

ROOM = "lobby"


async def test_a_client_gets_missed_messages_on_another_node(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        visitor = await first.connect("alice")
        ok = await visitor.ask(type="join", room=ROOM)
        await visitor.close()
        talker = await first.connect("bob")
        await talker.ask(type="join", room=ROOM)
        for number in (1, 2, 3):
            await talker.ask(type="publish", room=ROOM, data=number)
        visitor = await second.connect("alice")
        since = {"epoch": ok["epoch"], "offset": ok["offset"]}
        ok = await visitor.ask(type="join", room=ROOM, since=since)
        assert (ok["recovered"], ok["replayed"], ok["offset"]) == (True, 3, 3)
        for number in (1, 2, 3):
            message = await visitor.receive("message")
            assert (message["data"], message["offset"]) == (number, number)


async def test_clients_of_two_nodes_see_each_other(shared_valkey: Valkey) -> None:
    async with two_nodes(shared_valkey) as (first, second):
        here = await first.connect("alice")
        await here.ask(type="join", room=ROOM)
        there = await second.connect("bob")
        await there.ask(type="join", room=ROOM)
        assert (await here.receive("joined"))["user"] == there.user
        answer = await there.ask(type="presence", room=ROOM)
        assert sorted(member["user"] for member in answer["members"]) == sorted(
            [here.user, there.user]
        )
        assert answer["total"] == 2
        await there.close()
        assert await here.receive() == {"type": "left", "room": ROOM, "user": there.user}
