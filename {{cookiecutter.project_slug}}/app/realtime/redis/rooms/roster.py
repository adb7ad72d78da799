"""Who is in one room on all nodes together, and what of it this node has yet to write down.

In Redis a room has three kinds of keys: ``users`` is a hash of how many connections each user has,
``nodes`` a sorted set of when each node's lease ends (Unix milliseconds), and ``node:<id>`` a hash
of how many connections each user has there. All of them expire if no node is left to renew them.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice

import structlog
from pydantic import PositiveInt, TypeAdapter, ValidationError

from ...connections.connection import Connection
from ...errors import Unavailable
from ...protocol import UserName
from ...rooms.history import Event
from ...rooms.presence import Attendance, Roster
from ...settings.settings import RealtimeSettings
from ..backplane import RedisBackplane
from ..connections import answered_within

log = structlog.stdlib.get_logger(__name__)

USERS_AT_ONCE = 500
"""How many users of a room one script writes, while Redis serves nobody else."""

_users = TypeAdapter(dict[UserName, PositiveInt])


class RedisRoster(Roster):
    """Counts this node's connections in a room, and knows which counts are yet to be written.

    It is over when nobody is left and all is written.
    """

    def __init__(
        self,
        room: str,
        backplane: RedisBackplane,
        settings: RealtimeSettings,
        write_later: Callable[["RedisRoster"], None],
    ) -> None:
        super().__init__(room, backplane, settings)
        self._write_later = write_later
        self._timeout_s = backplane.timeout_s
        self._most_listed = settings.max_members_listed
        self._begins = True
        # Users, and the connections that are the cause; none if others know of it already.
        self._unwritten: dict[str, str] = {}
        self._writing: dict[str, str] = {}
        self._asking: set[asyncio.Future[Attendance]] = set()
        self._answering: set[asyncio.Future[Attendance]] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be kept or written."""
        return not (self._users or self._unwritten or self._writing or self._asking)

    def _note(self, cause: Connection, event: Event | None) -> None:
        self._unwritten[cause.user] = self._unwritten.get(cause.user) or cause.id
        self._write_later(self)

    async def attendance(self) -> Attendance:
        """Return who is in the room, once Redis has told.

        Raises:
            Unavailable: it does not in time.

        """
        answer: asyncio.Future[Attendance] = asyncio.get_running_loop().create_future()
        self._asking.add(answer)
        self._write_later(self)
        try:
            async with answered_within(self._timeout_s):
                return await answer
        except TimeoutError:
            msg = "nobody can tell just now who is in the room"
            raise Unavailable(msg) from None
        finally:
            self._asking.discard(answer)

    def report(self) -> list[str | int]:
        """Return the last arguments of the next `WRITE`."""
        self.repeat()
        self._writing = dict(islice(self._unwritten.items(), USERS_AT_ONCE))
        for user in self._writing:
            del self._unwritten[user]
        if not self._unwritten:  # or else some who asked would not find themselves
            self._answering, self._asking = self._asking, set()
        most_listed = self._most_listed if self._answering else 0
        arguments: list[str | int] = [int(self._begins), most_listed]
        for user, cause in self._writing.items():
            arguments += [user, self._users[user], cause]
        return arguments

    def confirm(self, total: int, listed: Sequence[bytes]) -> None:
        """Take note that the last report is written, and pass on who is in the room."""
        self._begins = False
        self._writing = {}
        answering, self._answering = self._answering, set()
        if answering:
            self._answer(answering, total, listed)
        if self._unwritten or self._asking:
            self._write_later(self)

    def _answer(
        self, answering: set[asyncio.Future[Attendance]], total: int, listed: Sequence[bytes]
    ) -> None:
        fields = iter(listed)
        users = dict(islice(zip(fields, fields, strict=True), self._most_listed))
        try:
            attendance = Attendance(_users.validate_python(users), total)
        except ValidationError:
            # Whoever can reach Redis can write there. Those who ask hear nothing in time.
            log.warning("malformed presence refused", room=self.room)
            return
        for answer in answering:
            if not answer.done():
                answer.set_result(attendance)

    def repeat(self) -> None:
        """Report once more what the last report said, unless it is confirmed."""
        for user, cause in self._writing.items():
            self._unwritten[user] = cause or self._unwritten.get(user, "")
        self._writing = {}
        self._asking |= {answer for answer in self._answering if not answer.done()}
        self._answering = set()

    def begin(self) -> None:
        """Report all there is: Redis knows nothing of this node."""
        self.repeat()
        self._begins = True
        self._unwritten = dict.fromkeys(self._users, "") | self._unwritten
        self._write_later(self)
