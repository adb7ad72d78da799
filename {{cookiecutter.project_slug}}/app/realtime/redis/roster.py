"""Who is in one room on all nodes together, and what of it this node has yet to write down.

In Redis a room has three kinds of keys: ``users`` is a hash of how many connections each user has,
``nodes`` a sorted set of when each node's lease ends (Unix milliseconds), and ``node:<id>`` a hash
of how many connections each user has there. All of them expire if no node is left to renew them.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import structlog
from pydantic import PositiveInt, TypeAdapter, ValidationError

from ..connection import Connection
from ..errors import Unavailable
from ..protocol import UserName
from ..rooms.presence import Attendance
from .client import answered_within

log = structlog.stdlib.get_logger(__name__)

USERS_AT_ONCE = 500
"""How many users of a room one script writes, while Redis serves nobody else."""

COMMON = """
local users, nodes, channel, node_users = unpack(KEYS)
local node, command, most_told = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local size = redis.call('HLEN', users)
local events = {}

local function change(user, difference, event, cause)
  local total = redis.call('HINCRBY', users, user, difference)
  if total <= 0 then redis.call('HDEL', users, user) end
  if event and (total <= 0 or total == difference) then
    events[#events + 1] =
      cjson.encode({sender = user, data = cjson.null, exclude = cause, event = event})
  end
end

local function tell()
  size = math.max(size, redis.call('HLEN', users))
  if #events > 0 and size <= most_told then
    redis.call(command, channel, table.concat(events, '\\n'))
  end
end
"""

WRITE = (
    COMMON
    + """
local keep_ms, lease_ms, turn = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local begins, most_listed = ARGV[7] == '1', tonumber(ARGV[8])

local lease_ends_ms = redis.call('ZSCORE', nodes, node)
if lease_ends_ms and redis.call('EXISTS', users, node_users) < 2 then
  redis.call('DEL', users, nodes)
  lease_ends_ms = false
end
local was_buried = false
if lease_ends_ms then
  if tonumber(redis.call('HGET', node_users, '')) > turn then return false end
else
  if not begins then return false end
  was_buried = redis.call('HGET', node_users, '') == 'buried'
  redis.call('DEL', node_users)
  if redis.call('EXISTS', nodes) == 0 then redis.call('DEL', users) end
end

for number = 9, #ARGV, 3 do
  local user, count, cause = ARGV[number], tonumber(ARGV[number + 1]), ARGV[number + 2]
  local difference = count - tonumber(redis.call('HGET', node_users, user) or 0)
  if count > 0 then
    redis.call('HSET', node_users, user, count)
  else
    redis.call('HDEL', node_users, user)
  end
  if difference ~= 0 then
    local is_news = was_buried or cause ~= ''
    change(user, difference, is_news and (difference > 0 and 'joined' or 'left'), cause)
  end
end
tell()

redis.call('HSET', node_users, '', turn)
if redis.call('HLEN', node_users) > 1 then
  redis.call('ZADD', nodes, now_ms + lease_ms, node)
  redis.call('PEXPIRE', users, keep_ms)
  redis.call('PEXPIRE', nodes, keep_ms)
  redis.call('PEXPIRE', node_users, keep_ms)
else
  redis.call('DEL', node_users)
  redis.call('ZREM', nodes, node)
end

local listed, cursor = {}, '0'
while #listed < 2 * most_listed do
  local found = redis.call('HSCAN', users, cursor, 'COUNT', most_listed)
  for _, field in ipairs(found[2]) do listed[#listed + 1] = field end
  cursor = found[1]
  if cursor == '0' then break end
end
local dead = {}
if lease_ends_ms and tonumber(lease_ends_ms) > now_ms then
  dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', now_ms)
end
return {dead, redis.call('HLEN', users), listed}
"""
)
"""Writes a node's users down and renews its lease; nil if the node has to begin again.

A node that comes too late itself calls nobody dead: after an outage, the others may only be later.

A node's hash has the turn of its last writing, under an empty name. Thus a writing that a frozen
server has delayed, and that has been repeated since, does nothing.
"""

BURY = (
    COMMON
    + """
local keep_ms = ARGV[4]
local lease_ends_ms = redis.call('ZSCORE', nodes, node)
if not lease_ends_ms or tonumber(lease_ends_ms) > now_ms then return end
if redis.call('EXISTS', node_users) == 0 then
  redis.call('DEL', users, nodes)
  return
end
local fields = redis.call('HGETALL', node_users)
for number = 1, #fields, 2 do
  if fields[number] ~= '' then change(fields[number], -fields[number + 1], 'left') end
end
tell()
redis.call('DEL', node_users)
redis.call('ZREM', nodes, node)
redis.call('HSET', node_users, '', 'buried')
redis.call('PEXPIRE', node_users, keep_ms)
"""
)
"""Takes a dead node's users away. If nobody knows who they were, the other nodes begin again.

Should it come back, its users have joined again, so for a while it is remembered that they left.
"""

_users = TypeAdapter(dict[UserName, PositiveInt])


class RedisRoster:
    """Counts this node's connections in a room, and knows which counts are yet to be written.

    It is over when nobody is left and all is written.
    """

    def __init__(
        self,
        room: str,
        write_later: Callable[["RedisRoster"], None],
        *,
        timeout_s: float,
        most_listed: int,
    ) -> None:
        self.room = room
        self._write_later = write_later
        self._timeout_s = timeout_s
        self._most_listed = most_listed
        self._users: Counter[str] = Counter()
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

    def enter(self, connection: Connection) -> None:
        """Count a connection in."""
        self._users[connection.user] += 1
        self._change(connection)

    def leave(self, connection: Connection) -> None:
        """Count a connection out."""
        self._users[connection.user] -= 1
        if self._users[connection.user] == 0:
            del self._users[connection.user]
        self._change(connection)

    def _change(self, connection: Connection) -> None:
        self._unwritten[connection.user] = self._unwritten.get(connection.user) or connection.id
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
