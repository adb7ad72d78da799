"""HTTP on uvicorn, handshakes among it: requests that keep to a size, and come in time.

uvicorn keeps as much as a client sends, and waits for the rest for ever. Here each connection has
one timer, which runs while its client owes a request or the rest of one, from the very beginning.
"""

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from ..metrics import CountBy

MAX_HEAD_BYTES = 32_768
"""For all of a request but its body; the other limits are those of the WebSocket library."""

LINGER_S = 2.0
"""How long a client may take to read why it is refused, and to leave."""

ADDRESS_TOO_LONG = HTTPStatus.REQUEST_URI_TOO_LONG
HEAD_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
BODY_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

REASONS = {
    HTTPStatus.BAD_REQUEST: "This is no HTTP/1.1 request.",
    HTTPStatus.REQUEST_TIMEOUT: "The request did not come in time.",
    ADDRESS_TOO_LONG: f"The address has more than {MAX_LINE_LENGTH} bytes.",
    BODY_TOO_LARGE: "The body is too large.",
    HEAD_TOO_LARGE: (
        f"There are more than {MAX_NUM_HEADERS} header fields, more than {MAX_LINE_LENGTH} bytes "
        f"in one of them, or more than {MAX_HEAD_BYTES} in all."
    ),
}

log = structlog.stdlib.get_logger(__name__)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which refuses what is too large, and what comes too late."""

    def __init__(self, *args: Any, timeout_s: float, refusals: CountBy, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self.headers = []
        self._timeout_s = timeout_s
        self._refusals = refusals
        self._timer: TimerHandle | None = None
        self._unfinished_bytes = 0
        self._in_body = False
        self._refused = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait_for(self._timeout_s, self._time_out)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._wait_no_longer()

    def data_received(self, data: bytes) -> None:
        """Read on, unless that becomes too much for one request."""
        if self._refused:
            return
        if self._timer is None:
            self._wait_for(self._timeout_s, self._time_out)
        self._unfinished_bytes += len(data)
        super().data_received(data)
        if self._in_body:  # whose chunks bring some bytes of their own
            limit, excess = MAX_HEAD_BYTES + 2 * self.config.ws_max_size, BODY_TOO_LARGE
        else:
            limit, excess = MAX_HEAD_BYTES, HEAD_TOO_LARGE
        if self._unfinished_bytes > limit or len(self.url) > MAX_LINE_LENGTH:
            self._refuse(self._excess_of_head() or excess)

    def on_headers_complete(self) -> None:
        """Begin with a request, if its head is not too large.

        Raises:
            ValueError: it is; the parser stops, and uvicorn calls `send_400_response`.

        """
        if self._excess_of_head() is not None:
            raise ValueError
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Owed is nothing more, until a next request begins."""
        super().on_message_complete()
        self._wait_no_longer()
        self._unfinished_bytes = 0
        self._in_body = False

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to `FrameProtocol`, and nothing to the garbage collector."""
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # as uvicorn does at the end

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser cannot read, or was stopped at."""
        self._refuse(self._excess_of_head() or HTTPStatus.BAD_REQUEST)

    def _excess_of_head(self) -> HTTPStatus | None:
        sizes = [len(name) + len(value) for name, value in self.headers]
        if len(self.url) > MAX_LINE_LENGTH:
            return ADDRESS_TOO_LONG
        if len(sizes) > MAX_NUM_HEADERS or max(sizes, default=0) > MAX_LINE_LENGTH:
            return HEAD_TOO_LARGE
        return HEAD_TOO_LARGE if sum(sizes) > MAX_HEAD_BYTES else None

    def _time_out(self) -> None:
        if self._unfinished_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer, and close in stages: a reset might overtake the answer (RFC 9112 §9.6)."""
        if self._refused:
            return
        self._refused = True
        log.info("request refused", status=int(status), client=self.client and self.client[0])
        self._refusals.add(int(status))
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body:  # another answer is on its way
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        body = REASONS[status].encode()
        fields = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        head = [STATUS_LINE[status], *(b"%s: %s\r\n" % field for field in fields), b"\r\n"]
        self.transport.write(b"".join([*head, body]))
        self.transport.write_eof()
        self._wait_for(LINGER_S, self.transport.abort)

    def _wait_for(self, timeout_s: float, then: Callable[[], None]) -> None:
        self._wait_no_longer()
        self._timer = self.loop.call_later(timeout_s, then)

    def _wait_no_longer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
