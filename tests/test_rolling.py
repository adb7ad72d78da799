"""Nodes of this version work together with nodes of the next one, on one Redis.

The next version is this one with an additional field in everything that a node sends to other nodes
or stores in Redis.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .checks.service import Client, Frame, Service, running
from .combination import find
from .conftest import Baker
from .valkey import run_valkey

# File, old text, new text.
NEXT_VERSION = [
    (  # every message from one node to others, and every message that Redis keeps
        "app/realtime/backplane.py",
        "    exclude: str | None = None\n",
        '    exclude: str | None = None\n    next: str = "new"\n',
    ),
    (  # a user joined or left
        "app/realtime/redis/lua/rooms/members.lua",
        "event = event}",
        "event = event, next = 'new'}",
    ),
    (  # a message to a room, with its position
        "app/realtime/redis/lua/rooms/publish.lua",
        '{"epoch":"%s",',
        '{"position":"new","epoch":"%s",',
    ),
    (  # the position of a room
        "app/realtime/redis/lua/rooms/position.lua",
        "'origin', origin, 'owner', owner)",
        "'origin', origin, 'owner', owner, 'next', 'new')",
    ),
]


@pytest.fixture
def nodes(baked: Baker, tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """Run a node of this version and one of the next."""
    project = baked(find("ticket-rooms-heartbeat-redis"))
    following = project.copy(tmp_path / "next")
    for path, old, new in NEXT_VERSION:
        text = following.read(path)
        assert text.count(old) == 1, f"{path} does not have {old!r} once"
        following.write(path, text.replace(old, new))
    with (
        run_valkey(project) as url,
        running(project, REDIS_URL=url, REDIS_TIMEOUT_S="20") as this,
        running(following, REDIS_URL=url, REDIS_TIMEOUT_S="20") as other,
    ):
        yield this, other
        for node in (this, other):
            counts = metrics(node)
            assert counts["ws_redis_malformed_total"] == 0
            assert counts["ws_redis_gaps_total"] == 0
            assert counts["ws_redis_publish_failures_total"] == 0


def metrics(node: Service) -> dict[str, float]:
    """Return the node's metrics that have no labels."""
    url = f"http://127.0.0.1:{node.port}/metrics"
    text = node.shell(
        f'. ./.env; curl --silent --fail -H "Authorization: Bearer $METRICS_KEY" {url}'
    )
    return {
        name: float(value) for name, value in re.findall(r"^(ws_\w+) (\S+)$", text, re.MULTILINE)
    }


def post(node: Service, path: str, *headers: str, **body: object) -> None:
    """Call a route as the backend does; it must succeed."""
    options = "".join(f" -H '{header}'" for header in headers)
    node.shell(
        f". ./.env; curl --silent --fail http://127.0.0.1:{node.port}{path}"
        f""" -H "Authorization: Bearer $BACKEND_KEY"{options} -d '{json.dumps(body)}'"""
    )


@pytest.fixture(params=["to the next version", "from the next version"])
def pair(request: pytest.FixtureRequest, nodes: tuple[Service, Service]) -> tuple[Service, Service]:
    """Return the sending node, and the other one."""
    return nodes if request.param == "to the next version" else nodes[::-1]


def data_of(client: Client) -> object:
    """Return the data of the next message."""
    return client.receive("message")["data"]


def join(client: Client, **position: object) -> Frame:
    """Join the lobby, and return the answer."""
    return client.ask(type="join", room="lobby", **position)


def test_two_versions_work_together_without_losses(pair: tuple[Service, Service]) -> None:
    here, there = pair
    with here.client("alice") as alice, there.client("bob") as bob:
        # To a user and to all; from the backend once, with an idempotency key.
        alice.ask(type="send", to="bob", data="to bob")
        assert data_of(bob) == "to bob"
        alice.ask(type="broadcast", data="to all")
        assert data_of(bob) == "to all"
        for node in pair:
            post(node, "/publish", "Idempotency-Key: 1", user="bob", data="from the backend")
        assert data_of(bob) == "from the backend"

        # Presence in a room.
        join(bob)
        join(alice)
        assert bob.receive("message", "joined") == joined("joined", "alice") | {"info": None}
        expected = [{"user": name, "connections": 1, "info": None} for name in ("alice", "bob")]
        for client in (alice, bob):
            members = client.ask(type="presence", room="lobby")["members"]
            assert sorted(members, key=lambda member: str(member["user"])) == expected

        # Messages to a room, and their offsets.
        for number in (1, 2):
            assert alice.ask(type="publish", room="lobby", data=number)["offset"] == number
            message = bob.receive("message", "resync")
            assert (message["data"], message["offset"]) == (number, number)
        alice.ask(type="leave", room="lobby")
        assert bob.receive("message", "left") == joined("left", "alice")

        # The history of the other node's messages in Redis.
        epoch = join(alice)["epoch"]
        with there.client("carol") as carol:
            answer = join(carol, since={"epoch": epoch, "offset": 0})
            assert (answer["recovered"], answer["replayed"]) == (True, 2)
            assert [data_of(carol) for _ in range(2)] == [1, 2]
            carol.ask(type="publish", room="lobby", data=3)
        assert data_of(alice) == data_of(bob) == 3

        # A ticket of one node used on the other, and a disconnected user.
        with here.client("bob", there.port) as second:
            post(here, "/disconnect", user="bob")
            assert second.close_code() == bob.close_code() == 4503


def joined(kind: str, user: str) -> Frame:
    """Return the event that a user has joined or left the lobby."""
    return {"type": kind, "room": "lobby", "user": user}
