"""A node behind a proxy stops: its clients go to the other node, and miss nothing."""

import asyncio
import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from .checks.service import Service, running
from .combination import DEFAULT
from .conftest import Baker
from .test_proxies import PROGRAMS, run_shipped
from .valkey import run_valkey

CLIENTS = 600
MAX_REFUSED = CLIENTS // 10
DEADLINE_S = 240.0
PAUSE_S = 0.1

# All clients are one user with one address here, in a process that may be slow to answer.
SETTINGS = {
    "JWT_SECRET": "jwt-secret" * 4,
    "HISTORY_MESSAGES": "10000",  # enough for a slow rejoin
    "MAX_HANDSHAKES_PER_S": "2000",
    "REDIS_TIMEOUT_S": "20",
    # Until Caddy notices, it prefers the node that stops, which has ever fewer connections.
    "SHUTDOWN_DELAY_S": "5",
    "SHUTDOWN_GRACE_S": "60",
    "MAX_CONNECTIONS_PER_ADDRESS": "2000",
    "MAX_CONNECTIONS_PER_USER": "2000",
    "MAX_HANDSHAKES_PER_S_PER_ADDRESS": "2000",
}


def jitter_s() -> float:
    """Return how long a client waits before it connects again."""
    return random.uniform(0, 2 * PAUSE_S)  # noqa: S311 - no secret


async def ask(connection: ClientConnection, **command: object) -> dict[str, Any]:
    """Send a command, and return the answer."""
    await connection.send(json.dumps(command | {"id": "1"}))
    while True:
        answer: dict[str, Any] = json.loads(await connection.recv())
        if answer.get("id") == "1":
            assert answer["type"] == "ok", answer
            return answer


class Crowd:
    """Clients in one room behind a proxy, each of which reconnects, and one that publishes."""

    def __init__(self, service: Service, port: str) -> None:
        options = service.connect_options("alice")
        self._uri = options["uri"].replace(f":{service.port}/", f":{port}/")
        self._headers = options["headers"]
        self._subprotocols = [Subprotocol(each) for each in options["subprotocols"]]
        self.refused: list[int] = []
        self.lost = 0
        self.joined = 0
        self.received: list[list[int]] = []
        self.published: list[int] = []

    async def _connect(self) -> ClientConnection:
        while True:
            try:
                connection = await connect(
                    self._uri,
                    additional_headers=self._headers,
                    subprotocols=self._subprotocols or None,
                    proxy=None,
                    open_timeout=DEADLINE_S,
                )
            except InvalidStatus as failure:
                self.refused.append(failure.response.status_code)
                await asyncio.sleep(jitter_s())
            else:
                try:
                    assert json.loads(await connection.recv())["type"] == "welcome"
                except BaseException:  # a cancellation, too
                    connection.transport.abort()
                    raise
                return connection

    async def follow(self) -> None:
        """Be a member of the room for ever, over any number of connections."""
        offsets: list[int] = []
        self.received.append(offsets)
        position: dict[str, Any] = {}
        while True:
            async with await self._connect() as connection:
                with contextlib.suppress(ConnectionClosed):
                    answer = await ask(connection, type="join", room="hall", **position)
                    assert answer["recovered"] is (True if position else None), answer
                    self.joined += 1
                    try:
                        async for text in connection:
                            frame = json.loads(text)
                            if frame["type"] == "message":
                                offsets.append(frame["offset"])
                    finally:
                        last = offsets[-1] if offsets else 0
                        position = {"since": {"epoch": answer["epoch"], "offset": last}}
                        self.joined -= 1
                        self.lost += 1
            await asyncio.sleep(jitter_s())

    async def publish(self) -> None:
        """Publish for ever, and note what is acknowledged."""
        while True:
            async with await self._connect() as connection:
                with contextlib.suppress(ConnectionClosed):
                    await ask(connection, type="join", room="hall")
                    while True:
                        answer = await ask(connection, type="publish", room="hall", data="hello")
                        self.published.append(answer["offset"])
                        await asyncio.sleep(PAUSE_S)

    async def everybody(self) -> None:
        """Wait until all clients are in the room, and have all that was acknowledged."""
        while self.joined < CLIENTS or any(
            self.published and offsets[-1:] < self.published[-1:] for offsets in self.received
        ):
            await asyncio.sleep(PAUSE_S)


async def outlive(node: Service, crowd: Crowd) -> None:
    """Stop the node under the crowd."""
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        followers = [group.create_task(crowd.follow()) for _ in range(CLIENTS)]
        await crowd.everybody()
        crowd.refused.clear()
        publisher = group.create_task(crowd.publish())
        await asyncio.to_thread(node.stop)
        publisher.cancel()
        await crowd.everybody()
        for follower in followers:
            follower.cancel()


@pytest.mark.parametrize("program", PROGRAMS)
def test_nobody_misses_a_message(baked: Baker, tmp_path: Path, program: str) -> None:
    project = baked(DEFAULT)
    with (
        run_valkey(project) as url,
        running(project, REDIS_URL=url, **SETTINGS) as node,
        running(project, REDIS_URL=url, **SETTINGS) as other,
        run_shipped(program, project, [node.port, other.port], tmp_path) as port,
    ):
        crowd = Crowd(node, port)
        asyncio.run(outlive(node, crowd))
    assert crowd.lost >= CLIENTS / 4
    assert len(crowd.refused) <= MAX_REFUSED, crowd.refused
    assert set(crowd.refused) <= {503}
    assert crowd.published
    for offsets in crowd.received:
        assert offsets == list(range(1, len(offsets) + 1))
        assert offsets[-1] >= crowd.published[-1]
