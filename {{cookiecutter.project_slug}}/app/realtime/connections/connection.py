"""A connection: the identity of a client, its outbox, its limits and its end."""

import asyncio
import secrets
import time
from typing import Any, Generic

import structlog
from typing_extensions import TypeVar

from ..auth.identity import Identity
from ..errors import CommandError, Rejected, check_close
from ..limits.budget import KEY_BYTES, ClientLimits, UserBudget
from ..protocol import EXPIRED, INTERNAL_ERROR, SLOW_CONSUMER, Close, ServerFrame
from ..settings.settings import RealtimeSettings
from ..wire.asgi import Wire
from ..wire.frame import encode
from .delivery import Delivery, Recipient
from .guard import Guard

EXPIRY_CHECK_S = 60.0
"""How often the wall clock is checked: it may jump, and timers stop while the machine sleeps."""

log = structlog.stdlib.get_logger(__name__)

StateT = TypeVar("StateT", default=Any)


class Connection(Recipient, Generic[StateT]):
    """An accepted connection. Only its method `drain` waits.

    Call the methods in the event loop's thread. In another thread, those that send or close raise
    `WrongThread` and do nothing; the engine's own methods do not check. ``state`` is what your
    `connecting` function has returned. ``closed`` says why the connection has ended.
    """

    __slots__ = (
        "_delivery",
        "_expiry",
        "_max_unsent_bytes",
        "_wire",
        "closed",
        "guard",
        "id",
        "identity",
        "is_open",
        "limits",
        "state",
        "user",
    )

    def __init__(
        self,
        identity: Identity,
        wire: Wire,
        delivery: Delivery,
        settings: RealtimeSettings,
        budget: UserBudget,
    ) -> None:
        super().__init__()
        self.id = secrets.token_urlsafe(12)
        self.identity = identity
        self.user = identity.user
        self.closed: Close | None = None
        self.state: StateT
        self.limits = ClientLimits(settings, budget)
        self.guard = Guard(settings.handler_timeout_s)
        self._wire = wire
        self._delivery = delivery
        self._max_unsent_bytes = settings.max_unsent_bytes
        self.is_open = False
        """Whether ``welcome`` was sent, and the connection has not ended."""
        self._expiry: asyncio.TimerHandle | None = None
        self._schedule_expiry()

    @property
    def heard_at(self) -> float:
        """When the client last sent anything, on the event loop's clock."""
        return self._wire.heard_at

    def pay_for_key(self, key: str) -> str:
        """Pay for an idempotency key, and return it prefixed with the user's name."""
        self.limits.charge(KEY_BYTES)
        return f"{self.user}\n{key}"  # no user's name has a line break

    def pay_for_frames(self, count: int) -> None:
        """Pay for control frames and fragments; close the connection after too many."""
        try:
            self.limits.pay_for_frames(count)
        except Rejected as rejection:
            self.reject(rejection)

    def open(self, welcome: ServerFrame) -> None:
        """Send the first frame. Frames enqueued before it are dropped."""
        if self.closed is None:
            self.outbox.clear()
            self.is_open = True
            self.send(welcome)

    def send(self, *frames: ServerFrame) -> None:
        """Send frames to this connection alone: all of them, or none if one raises `TooLarge`."""
        self._delivery.check_thread()
        self._delivery.enqueue(self, list(map(encode, frames)))

    def send_encoded(self, *frames: bytes) -> None:
        """Send encoded WebSocket frames."""
        self._delivery.enqueue(self, frames)

    def flush(self) -> None:
        """Write the outbox; close the connection if too many bytes are unsent."""
        outbox, self.outbox = self.outbox, []
        if not self.is_open or not outbox:
            return
        try:
            unsent_bytes = self._wire.write(outbox, self._max_unsent_bytes)
        except Exception:
            log.exception("write failed", connection=self.id, user=self.user)
            self.close(INTERNAL_ERROR)
            return
        if unsent_bytes is None:
            self._log_slow()
            self.close(SLOW_CONSUMER)
        elif unsent_bytes:
            self._delivery.note_unsent(self, unsent_bytes)

    def unsent_bytes(self) -> int:
        """Return how many written bytes are still in this process."""
        return self._wire.unsent_bytes()

    async def drain(self) -> None:
        """Wait until the client has read nearly all that was written to it."""
        await self._wire.drain()

    def cut_off(self) -> None:
        """End the connection as a slow consumer, and drop what is unsent."""
        if self.closed is None:
            self._log_slow()
            self._wire.close(SLOW_CONSUMER)
            self.mark_closed(SLOW_CONSUMER)
        self._wire.abort()

    def _log_slow(self) -> None:
        unsent_bytes = self._wire.unsent_bytes()
        log.warning("slow consumer", connection=self.id, user=self.user, unsent_bytes=unsent_bytes)

    def close(self, close: Close) -> None:
        """Write the outbox, then close. Idempotent: the first reason counts.

        Raises:
            ValueError: the code or the reason cannot be sent.
        """
        self._delivery.check_thread()
        if self.closed is not None:
            return
        check_close(close)
        if self.is_open and self.outbox:
            self._wire.write(self.outbox, self._max_unsent_bytes)
        self._wire.close(close)
        self.mark_closed(close)
        if unsent_bytes := self._wire.unsent_bytes():
            self._delivery.note_unsent(self, unsent_bytes)

    def reject(self, rejection: Rejected | CommandError) -> None:
        """Close as a rejection says, and log its cause."""
        if self.closed is None:
            reason, fields = rejection.close_as.reason, {"connection": self.id, "user": self.user}
            log.info("connection rejected", reason=reason, cause=rejection.cause, **fields)
        self.close(rejection.close_as)

    def mark_closed(self, close: Close) -> None:
        """Note that the connection has ended. Idempotent: the first reason counts."""
        if self.closed is not None:
            return
        self.closed = close
        self.is_open = False
        self.outbox.clear()
        self._cancel_expiry()

    # {% if cookiecutter.auth == "jwt" %}
    def renew(self, identity: Identity) -> None:
        """Replace the credentials by newer ones of the same user."""
        self._delivery.check_thread()
        self.identity = identity
        self._cancel_expiry()
        if self.closed is None:
            self._schedule_expiry()

    # {% endif %}
    def _schedule_expiry(self) -> None:
        if self.identity.expires_at is not None:
            left_s = max(0.0, self.identity.expires_at - time.time())
            loop = asyncio.get_running_loop()
            if left_s > EXPIRY_CHECK_S:
                self._expiry = loop.call_later(EXPIRY_CHECK_S, self._schedule_expiry)
            else:
                self._expiry = loop.call_later(left_s, self.close, EXPIRED)

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
