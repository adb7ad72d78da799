"""One client: who it is, what waits to be written to it, how it is closed."""

import asyncio
import secrets
import time
from typing import Any, Generic

import structlog
from typing_extensions import TypeVar

from .auth.identity import Identity
from .delivery import Flusher
from .guard import Guard
from .limits.conduct import Conduct
from .protocol import EXPIRED, INTERNAL_ERROR, SLOW_CONSUMER, Close, ServerFrame
from .settings import RealtimeSettings
from .wire.asgi import Wire
from .wire.frame import text_frame

log = structlog.stdlib.get_logger(__name__)


StateT = TypeVar("StateT", default=Any)


class Connection(Generic[StateT]):
    """An accepted connection. Nothing here waits, so a fan-out is a plain loop.

    Its methods work in the event loop's thread only; from another one they raise `WrongThread`.
    ``guard`` runs the team's code for it. ``outbox`` holds the frames of this turn of the event
    loop. Whoever puts the first one in has the connection flushed, see `Flusher`; only `write` and
    `Audience.write` do. ``state`` is what your `connecting` function has returned.
    """

    __slots__ = (
        "_expiry",
        "_flusher",
        "_max_unsent_bytes",
        "_open",
        "_wire",
        "closed",
        "conduct",
        "guard",
        "id",
        "identity",
        "outbox",
        "state",
        "user",
    )

    def __init__(
        self, identity: Identity, wire: Wire, flusher: Flusher, settings: RealtimeSettings
    ) -> None:
        self.id = secrets.token_urlsafe(12)
        self.identity = identity
        self.user = identity.user
        self.outbox: list[bytes] = []
        self.closed: Close | None = None
        self.state: StateT
        self.conduct = Conduct(settings)
        self.guard = Guard(settings.handler_timeout_s)
        self._wire = wire
        self._flusher = flusher
        self._max_unsent_bytes = settings.max_unsent_bytes
        self._open = False
        self._expiry: asyncio.TimerHandle | None = None
        self.renew(identity)

    @property
    def heard_at(self) -> float:
        """When the client was last heard of, on the event loop's clock."""
        return self._wire.heard_at

    def open(self, welcome: ServerFrame) -> None:
        """Send the first frame. What others send before that, the client does not get."""
        if self.closed is None:
            self.outbox.clear()
            self._open = True
            self.send(welcome)

    def send(self, *frames: ServerFrame) -> None:
        """Send frames that only this connection gets: all of them, or none if one has no JSON."""
        self._flusher.check_thread()
        for ready in [text_frame(frame.encode()) for frame in frames]:
            self.write(ready)

    def write(self, frame: bytes) -> None:
        """Queue a ready WebSocket frame, to be written in one go with the others of this moment."""
        if not self.outbox:
            self._flusher.waiting(None).append(self)
        self.outbox.append(frame)

    def flush(self) -> None:
        """Write all that is queued, or close a client that does not read what it was sent."""
        outbox, self.outbox = self.outbox, []
        if not self._open or not outbox:
            return
        try:
            is_written = self._wire.write(outbox, self._max_unsent_bytes)
        except Exception:
            log.exception("write failed", connection=self.id, user=self.user)
            self.close(INTERNAL_ERROR)
            return
        if not is_written:
            owed = self._wire.unsent_bytes()
            log.warning("slow consumer", connection=self.id, user=self.user, unsent_bytes=owed)
            self.close(SLOW_CONSUMER)

    def close(self, close: Close) -> None:
        """Say goodbye, after what is queued. Idempotent: the first reason stands."""
        self._flusher.check_thread()
        if self.closed is not None:
            return
        if self._open and self.outbox:
            self._wire.write(self.outbox, self._max_unsent_bytes)
        self._wire.close(close)
        self.lost(close)

    def lost(self, close: Close) -> None:
        """Note that the connection has ended. Idempotent: the first reason stands."""
        if self.closed is not None:
            return
        self.closed = close
        self._open = False
        self.outbox.clear()
        self._cancel_expiry()

    def renew(self, identity: Identity) -> None:
        """Take the same user's newer credentials, and live as long as these."""
        self._flusher.check_thread()
        self.identity = identity
        self._cancel_expiry()
        if identity.expires_at is not None:
            delay_s = max(0.0, identity.expires_at - time.time())
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(delay_s, self.close, EXPIRED)

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
