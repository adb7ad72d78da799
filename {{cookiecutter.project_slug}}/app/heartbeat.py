"""The heartbeat: one sweep over all connections pings the quiet and closes the silent."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat

from .connection import Connection
from .frame import text_frame
from .manager import ConnectionManager
from .protocol import NO_PONG, HeartbeatTerms, ServerFrame
from .settings import SettingsPart


class HeartbeatSettings(SettingsPart):
    """Shorter than the minute after which proxies give up on an idle connection."""

    heartbeat_interval_s: PositiveFloat = 25.0
    heartbeat_timeout_s: PositiveFloat = 10.0
    # This heartbeat is the one that closes: two of them would race.
    ws_ping_interval_s: NonNegativeFloat = 0.0

    def heartbeat_terms(self) -> HeartbeatTerms | None:
        """Tell clients when to expect a ping, so that they can notice a dead server, too."""
        return HeartbeatTerms(
            interval_s=self.heartbeat_interval_s, timeout_s=self.heartbeat_timeout_s
        )


@dataclass(slots=True, kw_only=True)
class PingFrame(ServerFrame):
    """Asks for any frame in return."""

    type: Literal["ping"] = "ping"


class Heartbeat:
    """The sweeper. Any bytes from a client count as life, on a clock that cannot jump."""

    def __init__(self, settings: HeartbeatSettings, manager: ConnectionManager) -> None:
        self._interval_s = settings.heartbeat_interval_s
        self._timeout_s = settings.heartbeat_timeout_s
        self._manager = manager
        self._ping = text_frame(PingFrame().encode())
        self._pinged_at: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep until cancelled, often enough to be late by a fraction of the timeout only."""
        while True:
            await asyncio.sleep(min(self._interval_s, self._timeout_s) / 4)
            self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        """Ping each connection that was quiet for the interval; close it after the timeout."""
        pinged_at, self._pinged_at = self._pinged_at, {}
        for connection in self._manager:
            asked_at = pinged_at.get(connection.id)
            if asked_at is None or connection.heard_at >= asked_at:
                self._ping_if_quiet(connection, now)
            elif now - asked_at >= self._timeout_s:
                connection.close(NO_PONG)
            else:
                self._pinged_at[connection.id] = asked_at

    def _ping_if_quiet(self, connection: Connection, now: float) -> None:
        if now - connection.heard_at >= self._interval_s:
            connection.write(self._ping)
            self._pinged_at[connection.id] = now
