"""Fan-out in a room, which everybody joins first."""

from functools import partial

from .scenarios import DATA, Exchange, Scenario, fan_out

JOIN = Exchange(
    b'{"type":"join","room":"bench","id":"%b"}', b'{"type":"ok","id":"%b","room":"bench"}'
)
PUBLISH = Exchange(
    b'{"type":"publish","room":"bench","echo":true,"data":' + DATA + b"}",
    b'{"type":"message","from":"alice","data":' + DATA + b',"room":"bench","offset":1000000}',
    to_all=True,
)
ROOM = Scenario(
    "room",
    partial(fan_out, window=16, exchange=PUBLISH, enter=JOIN),
    "deliveries/s",
    ("the same in a room",),
)
