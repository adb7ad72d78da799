"""A follower: the Python client in one room, which receives every message or loads the state.

It publishes nothing, so it gets every offset. Between two loads, offsets come without a jump; what
was sent before a load is part of the loaded state.
"""

from app.realtime import RealtimeSettings
from client import Connection, Ended, RequestError, connect, status
from dev import credentials

from ..processes import Failure
from ..relay import Relay
from .ledger import Ledger, Totals

status.SHORTEST_PAUSE_S, status.LONGEST_PAUSE_S = 0.1, 1.0


class Follower:
    """A user who follows a room with the project's Python client, on the nodes of a relay."""

    def __init__(
        self, settings: RealtimeSettings, user: str, relay: Relay, room: str, ledger: Ledger
    ) -> None:
        self.rooms = (room,)
        self._settings = settings
        self._name = user
        self._relay = relay
        self._connection: Connection | None = None
        self._room = room
        self._ledger = ledger
        self._loads = 0
        self._loaded_at = 0
        self._received: set[int] = set()
        self._since_load: set[int] = set()
        self._last_offset: int | None = None
        self._duplicated = self._out_of_order = 0

    @property
    def user(self) -> str:
        """The user in the last `welcome`; a guest is another one on each connection."""
        welcome = self._connection and self._connection.welcome
        return str(welcome["user"]) if welcome else self._name

    async def run(self) -> None:
        """Follow the room until cancelled, also after an eviction.

        Raises:
            Failure: the service permanently refuses the client.
        """
        origin = self._settings.allowed_origins[0]
        try:
            async with self._relay.running():
                url = f"ws://127.0.0.1:{self._relay.port}/ws"
                async with connect(url, self._token, origin=origin) as self._connection:
                    while True:
                        await self._follow(self._connection)
        except (Ended, RequestError) as refusal:
            msg = f"the service refuses the Python client: {refusal}"
            raise Failure(msg) from None

    async def _follow(self, connection: Connection) -> None:
        try:
            async with connection.room(self._room, self._load) as room:
                async for message in room:
                    self.receive(message.data, message.offset)
        except RequestError as refusal:
            if refusal.code != "evicted":
                raise

    async def _token(self) -> str:
        settings = self._settings.model_copy(update={"port": self._relay.port})
        return (await credentials(settings, self._name)).token

    def abort(self) -> None:
        """Abort the connection."""
        self._relay.abort()

    async def _load(self) -> None:
        self.load()

    def load(self) -> None:
        """Record that the state was loaded, which has every message sent by now."""
        self._loads += 1
        self._loaded_at = self._ledger.tick()
        self._since_load.clear()
        self._last_offset = None

    def receive(self, number: int, offset: int | None) -> None:
        """Record a message that the client yields."""
        if offset is None or (self._last_offset is not None and offset != self._last_offset + 1):
            self._out_of_order += 1
        self._last_offset = offset
        is_repeated = self._ledger.messages[number].is_repeated
        if number in (self._since_load if is_repeated else self._received):
            self._duplicated += 1
        self._received.add(number)
        self._since_load.add(number)

    @property
    def is_complete(self) -> bool:
        """Whether it has every message that was acknowledged."""
        return self._loads > 0 and not self.totals().lost

    def totals(self) -> Totals:
        """Return the counts of the messages that this follower has to get."""
        acknowledged = [
            number
            for number, message in enumerate(self._ledger.messages)
            if message.room == self._room and message.acknowledged_at is not None
        ]
        missing = set(acknowledged) - self._received
        lost = sum(self._ledger.messages[each].sent_at > self._loaded_at for each in missing)
        return Totals(
            live=len(acknowledged) - len(missing),
            announced=len(missing) - lost,
            lost=lost,
            duplicated=self._duplicated,
            out_of_order=self._out_of_order,
            loads=self._loads,
        )
