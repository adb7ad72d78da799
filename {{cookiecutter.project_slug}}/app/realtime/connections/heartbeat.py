"""The heartbeat: pings connections that are quiet, and closes those that stay silent."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from ..protocol import NO_PONG, ServerFrame
from ..settings.settings import RealtimeSettings
from ..wire.frame import encode
from .manager import ConnectionManager


@dataclass(slots=True, kw_only=True)
class PingFrame(ServerFrame):
    """Asks for any frame in return."""

    type: Literal["ping"] = "ping"


class Heartbeat:
    """One loop over all connections. Any bytes from a client count as an answer to a ping."""

    def __init__(self, settings: RealtimeSettings, manager: ConnectionManager) -> None:
        self._interval_s = settings.heartbeat_interval_s
        self._timeout_s = settings.heartbeat_timeout_s
        self._manager = manager
        self._ping = encode(PingFrame())
        self._pinged_at: dict[str, float] = {}

    async def run(self) -> None:
        """Check all connections until cancelled, four times per interval, or timeout if shorter."""
        while True:
            await asyncio.sleep(min(self._interval_s, self._timeout_s) / 4)
            self.check(asyncio.get_running_loop().time())

    def check(self, now: float) -> None:
        """Ping each connection that was quiet for the interval; close it after the timeout."""
        pinged_at, self._pinged_at = self._pinged_at, {}
        for connection in self._manager:
            asked_at = pinged_at.get(connection.id)
            if asked_at is None or connection.heard_at >= asked_at:
                if connection.is_open and now - connection.heard_at >= self._interval_s:
                    connection.send_encoded(self._ping)
                    self._pinged_at[connection.id] = now
            elif now - asked_at >= self._timeout_s:
                connection.close(NO_PONG)
            else:
                self._pinged_at[connection.id] = asked_at
