"""The routes of rooms for the backend."""

from typing import Any

import httpx
import pytest

from ..live import BACKEND, Live


async def read(live: Live, path: str, status: int = 200) -> Any:
    answer = await live.get(f"/rooms/{path}", key=BACKEND)
    assert answer.status_code == status, answer.text
    return answer.json()


async def publish(live: Live, room: str, data: object, **headers: str) -> httpx.Response:
    return await live.post("/publish", {"room": room, "data": data}, headers=headers)


async def test_publish_answers_the_position(live: Live) -> None:
    client = await live.connect()
    joined = await client.ask(type="join", room="positions")
    answer = await publish(live, "positions", "one")
    position = {"epoch": joined["epoch"], "offset": joined["offset"] + 1}
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted"} | position)
    assert (await client.receive("message"))["offset"] == position["offset"]
    state = await read(live, "positions")
    assert state == position | {"users": 1, "nodes": 1}


async def test_a_repeated_request_has_the_first_position(live: Live) -> None:
    answers = [await publish(live, "keyed", 1, **{"Idempotency-Key": "room"}) for _ in range(3)]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["offset"] == (await read(live, "keyed"))["offset"]


async def test_an_unknown_room_is_empty_and_keeps_its_position(live: Live) -> None:
    state = await read(live, "unknown")
    assert (state["offset"], state["users"], state["nodes"]) == (0, 0, 0)
    assert await read(live, "unknown") == state
    assert await read(live, "unknown/members") == {"members": [], "total": 0}
    assert (await read(live, "unknown/messages"))["messages"] == []
    client = await live.connect()
    assert (await client.ask(type="join", room="unknown"))["epoch"] == state["epoch"]


async def test_members_are_listed_with_their_connections(live: Live) -> None:
    alice, bob = await live.connect("alice"), await live.connect("bob")
    for client in (alice, bob):
        await client.ask(type="join", room="members")
    listed = await read(live, "members/members")
    asked = await alice.ask(type="presence", room="members")
    assert listed == {"members": asked["members"], "total": 2}


async def test_messages_are_those_that_members_get(live: Live) -> None:
    client = await live.connect()
    joined = await client.ask(type="join", room="kept")
    for number in range(3):
        await publish(live, "kept", {"n": number})
    frames = [await client.receive("message") for _ in range(3)]
    end = {"epoch": joined["epoch"], "offset": frames[-1]["offset"]}
    everything = await read(live, "kept/messages")
    assert everything == end | {"recovered": None, "messages": frames}
    assert (await read(live, "kept/messages?last=2"))["messages"] == frames[1:]
    assert (await read(live, "kept/messages?last=0"))["messages"] == []
    since = f"epoch={joined['epoch']}&offset={frames[0]['offset']}"
    after = await read(live, f"kept/messages?{since}")
    assert after == end | {"recovered": True, "messages": frames[1:]}
    lost = await read(live, "kept/messages?epoch=another&offset=0")
    assert lost == end | {"recovered": False, "messages": []}


@pytest.mark.parametrize(
    ("path", "code", "field"),
    [
        ("-bad", "bad_room", "path.room"),
        ("x" * 65 + "/members", "bad_room", "path.room"),
        ("a/messages?last=-1", "bad_request", "query.last"),
        ("a/messages?last=x", "bad_request", "query.last"),
        ("a/messages?epoch=&offset=1", "bad_request", "query.epoch"),
    ],
)
async def test_bad_requests_are_refused_with_the_field(
    live: Live, path: str, code: str, field: str
) -> None:
    problem = await read(live, path, 422)
    assert problem["code"] == code
    assert problem["detail"].partition(": ")[0] == field


@pytest.mark.parametrize("query", ["offset=1", "epoch=e", "epoch=e&offset=1&last=2"])
async def test_half_a_position_is_refused(live: Live, query: str) -> None:
    problem = await read(live, f"a/messages?{query}", 400)
    assert problem["code"] == "bad_request"
    assert "offset" in problem["detail"]


@pytest.mark.parametrize("path", ["a", "a/members", "a/messages"])
async def test_the_routes_need_the_key(live: Live, path: str) -> None:
    assert (await live.get(f"/rooms/{path}")).status_code == 401
    assert (await live.get(f"/rooms/{path}", key="wrong")).status_code == 401
