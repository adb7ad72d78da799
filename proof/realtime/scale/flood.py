"""Raw connections that send commands as fast as servers take them, and read what these publish."""

import selectors
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from time import monotonic

from app.realtime.redis.connections import RedisCommand

CHUNK_BYTES = 65_536
BUFFER_BYTES = 1_048_576

PONG = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
"""The answer to a ping on a connection with subscriptions."""


def encode(commands: Iterable[RedisCommand]) -> bytes:
    """Return commands as they are sent to Redis."""
    encoded = b""
    for command in commands:
        parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
        encoded += b"*%d\r\n" % len(parts)
        encoded += b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    return encoded


class Flood:
    """By port, a connection that repeats commands, and others that read and do not parse.

    ``readers`` has, by port, what each of so many readers subscribes to.
    """

    def __init__(
        self, commands: Mapping[int, bytes], subscriptions: Mapping[int, bytes], readers: int
    ) -> None:
        self._stack = ExitStack()
        self._commands = {self._open(port): memoryview(sent) for port, sent in commands.items()}
        self._readers = [
            self._open(port, subscription)
            for port, subscription in subscriptions.items()
            for _ in range(readers)
        ]

    def _open(self, port: int, subscription: bytes = b"") -> socket.socket:
        """Connect, and wait until it is subscribed."""
        connection = self._stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        if subscription:
            connection.sendall(subscription + encode([["PING"]]))
            received = b""
            while not received.endswith(PONG):
                received += connection.recv(CHUNK_BYTES)
        return connection

    def run(self, seconds: float) -> None:
        """Send and read for so long, without waiting for replies; then disconnect.

        Raises:
            ConnectionError: a server has disconnected a reader that was too slow.
        """
        buffer, sent = bytearray(BUFFER_BYTES), dict.fromkeys(self._commands, 0)
        end = monotonic() + seconds
        with self._stack, selectors.DefaultSelector() as selector:
            for connection in (*self._readers, *self._commands):
                is_sender = connection in self._commands
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_sender else 0)
                selector.register(connection, events, connection)
            while monotonic() < end:
                for key, events in selector.select(timeout=seconds):
                    if events & selectors.EVENT_READ and not key.data.recv_into(buffer):
                        msg = "a server has disconnected a reader that was too slow"
                        raise ConnectionError(msg)
                    if events & selectors.EVENT_WRITE:
                        commands, first = self._commands[key.data], sent[key.data]
                        count = key.data.send(commands[first : first + CHUNK_BYTES])
                        sent[key.data] = (first + count) % len(commands)
