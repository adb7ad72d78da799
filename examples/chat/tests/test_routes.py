"""Members can read the stored messages of a room."""

from app.resources import Service

from .chat import fill, join_ship
from .realtime.live import Live


async def test_members_read_messages(live: Live, service: Service) -> None:
    await fill(service)
    alice = await join_ship(live, "alice")
    await alice.ask(type="publish", room="ship", data={"text": "ahoy"})
    statuses = {}
    async with live.http() as http:
        for user in ("bob", "carol"):
            headers = (await live.options(user)).headers
            answer = await http.get("/rooms/ship/messages", headers=headers)
            statuses[user] = answer.status_code
        assert (await http.get("/rooms/ship/messages")).status_code == 401
        headers = (await live.options("bob")).headers
        (message,) = (await http.get("/rooms/ship/messages", headers=headers)).json()
    assert statuses == {"bob": 200, "carol": 403}
    assert (message["sender"], message["text"]) == ("alice", "ahoy")
