"""Only members can join a room; their messages are stored."""

from app.resources import Service

from .chat import fill, join_ship
from .realtime.live import Live


async def test_only_members_can_join(live: Live, service: Service) -> None:
    await fill(service)
    carol = await live.connect("carol")
    assert (await carol.ask(type="join", room="ship"))["code"] == "forbidden"


async def test_a_message_is_stored(live: Live, service: Service) -> None:
    database = await fill(service)
    alice, bob = await join_ship(live, "alice"), await join_ship(live, "bob")
    assert (await alice.ask(type="publish", room="ship", data={"text": "ahoy"}))["type"] == "ok"
    received = (await bob.receive("message"))["data"]
    assert received["text"] == "ahoy"
    assert await database.execute("SELECT id, text FROM messages") == [(received["id"], "ahoy")]


async def test_a_long_text_is_refused(live: Live, service: Service) -> None:
    await fill(service)
    alice = await join_ship(live, "alice")
    answer = await alice.ask(type="publish", room="ship", data={"text": "x" * 2_001})
    assert answer["code"] == "forbidden"
