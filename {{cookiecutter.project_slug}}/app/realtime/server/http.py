"""uvicorn's HTTP protocol with limits on connections, and on the size and the time of a request.

By itself, uvicorn buffers a request of any size and waits for it indefinitely. Here, each
connection has one timer, which runs while a request is expected or incomplete.
"""

import re
import sys
from asyncio import Protocol, TimerHandle, Transport
from http import HTTPStatus
from typing import Any, cast

import httptools
import structlog
from prometheus_client import Counter
from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from ..errors import PROBLEM_TYPE, problem
from ..limits.admission import ConnectionsByNetwork, network_of

MAX_HEAD_BYTES = 32_768
"""The limit for the request line and all headers. The other limits are the WebSocket library's."""

MAX_PIPELINED = 10
"""Requests of one connection that may wait for the answers to earlier ones."""

LINGER_S = 2.0
"""How long a refused client may take to read the answer and to disconnect."""

HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""A valid ``Host`` (RFC 9112 §3.2, RFC 3986 §3.2)."""

ABSOLUTE_FORM = re.compile(rb"^https?://[^/?#]*/?", re.IGNORECASE)
"""Scheme and authority of a request target in absolute form (RFC 9112 §3.2.2)."""

URL_TOO_LONG = HTTPStatus.REQUEST_URI_TOO_LONG
HEAD_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
BODY_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE

REASONS = {
    HTTPStatus.BAD_REQUEST: "This is not a valid HTTP/1.1 request.",
    HTTPStatus.REQUEST_TIMEOUT: "The request did not arrive in time.",
    HTTPStatus.TOO_MANY_REQUESTS: "This address has too many connections.",
    URL_TOO_LONG: f"The URL has more than {MAX_LINE_LENGTH} bytes.",
    BODY_TOO_LARGE: "The body is too large.",
    HEAD_TOO_LARGE: (
        f"There are more than {MAX_NUM_HEADERS} header fields, more than {MAX_LINE_LENGTH} bytes "
        f"in one of them, or more than {MAX_HEAD_BYTES} in all."
    ),
}

log = structlog.stdlib.get_logger(__name__)


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection. Requests that are too large or too slow are refused.

    The connections of trusted proxies do not count by network, since many clients share them.
    """

    def __init__(
        self,
        *args: Any,
        timeout_s: float,
        refusals: Counter,
        connections: ConnectionsByNetwork,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections
        self._network: str | None = None
        self.url = b""
        self.headers = []
        self._timeout_s = timeout_s
        self._refusals = refusals
        self._timer: TimerHandle | None = None
        self._data = b""
        self._unfinished_bytes = 0
        self._in_body = False
        self._refused = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the timer for the first request, if the network may have another connection."""
        super().connection_made(transport)
        if self.client and self.client[0] not in self.app.trusted_hosts:
            network = network_of(self.client[0])
            if self._connections.is_full(network):
                self._refuse(HTTPStatus.TOO_MANY_REQUESTS)
                self.transport.close()  # at once: it takes a file descriptor
                return
            self._connections.enter(network)
            self._network = network
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and count the connection out."""
        super().connection_lost(exc)
        self._stop_timer()
        self._connections.leave(self._network)

    def data_received(self, data: bytes) -> None:
        """Read, unless the request gets too large."""
        if self._refused:
            return
        self._expect_request()
        self._data = data
        self._unfinished_bytes += len(data)
        super().data_received(data)
        self._data = b""
        if self._in_body:  # chunked encoding adds bytes, hence twice the limit
            limit, excess = MAX_HEAD_BYTES + 2 * self.config.ws_max_size, BODY_TOO_LARGE
        else:
            limit, excess = MAX_HEAD_BYTES, HEAD_TOO_LARGE
        if self._unfinished_bytes > limit or len(self.url) > MAX_LINE_LENGTH:
            self._refuse(self._excess_of_head() or excess)

    def on_message_begin(self) -> None:
        """Count at least one byte, even if it came with the end of the request before."""
        super().on_message_begin()
        self._unfinished_bytes = self._unfinished_bytes or 1

    def on_headers_complete(self) -> None:
        """Check the head's size, the method, the version, the host, and how many requests wait.

        Raises:
            ValueError: one of them is not valid; uvicorn then calls `send_400_response`.
        """
        is_flood = len(self.pipeline) >= MAX_PIPELINED
        is_connect = self.parser.get_method() == b"CONNECT"
        if is_flood or is_connect or self._excess_of_head() or not self._has_host():
            raise ValueError
        is_handshake = self.parser.should_upgrade() and self._should_upgrade()
        if is_handshake and self.parser.get_http_version() < "1.1":  # RFC 6455 §4.1
            raise ValueError
        self._in_body = True
        self.url = ABSOLUTE_FORM.sub(b"/", self.url)
        if not self._ignores_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the request timer."""
        if self._ignores_upgrade():
            return
        super().on_message_complete()
        self._stop_timer()
        self._unfinished_bytes = 0
        self._in_body = False
        if self.cycle is not None and self.cycle.response_complete:  # answered before its end
            self._expect_request()

    def on_response_complete(self) -> None:
        """Start the timer of the next request if its first bytes arrived before this response."""
        super().on_response_complete()
        if self._unfinished_bytes and not self.transport.is_closing():
            self._expect_request()

    def _expect_request(self) -> None:
        # While a complete request waits for its answer, the client need not send the next one.
        is_next = self._in_body or self.cycle is None or self.cycle.response_complete
        if self._timer is None and is_next and not self.pipeline:
            self._timer = self.loop.call_later(self._timeout_s, self._time_out)

    def _should_upgrade(self) -> bool:
        """Ignore a handshake (RFC 9110 §7.8) while earlier requests wait for their answers.

        uvicorn would write these between the frames, and close the WebSocket as an idle connection.
        """
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and super()._should_upgrade()

    def _ignores_upgrade(self) -> bool:
        return self.parser.should_upgrade() and not self._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Parse the request again without `Upgrade`, which made the parser skip the body."""
        fields = [field for field in self.headers if field[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        head = [
            b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version),
            *(b"%s: %s\r\n" % field for field in fields),
            b"\r\n",
        ]
        self._data = b"".join(head) + self._after_upgrade()
        # A new parser: the other has closed itself if this is the connection's last request.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        super().data_received(self._data)

    def _after_upgrade(self) -> bytes:
        # uvicorn is handling the parser's exception, whose argument is where the request ends.
        upgrade = sys.exception()
        return b"" if upgrade is None else self._data[upgrade.args[0] :]

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to `FrameProtocol`, without a reference cycle left behind."""
        super().handle_websocket_upgrade()
        if early := self._after_upgrade():
            cast(Protocol, self.transport.get_protocol()).data_received(early)
        self._stop_timer()
        self._connections.leave(self._network)
        self.parser = None  # type: ignore[assignment]  # as uvicorn does at the end

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser cannot read, or whose head is too large."""
        self._refuse(self._excess_of_head() or HTTPStatus.BAD_REQUEST)

    def _excess_of_head(self) -> HTTPStatus | None:
        sizes = [len(name) + len(value) for name, value in self.headers]
        if len(self.url) > MAX_LINE_LENGTH:
            return URL_TOO_LONG
        if len(sizes) > MAX_NUM_HEADERS or max(sizes, default=0) > MAX_LINE_LENGTH:
            return HEAD_TOO_LARGE
        return HEAD_TOO_LARGE if sum(sizes) > MAX_HEAD_BYTES else None

    def _has_host(self) -> bool:
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts:
            return self.parser.get_http_version() == "1.0"
        return len(hosts) == 1 and HOST.fullmatch(hosts[0]) is not None

    def _time_out(self) -> None:
        if self._unfinished_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer, and close in stages, since a reset could overtake the answer (RFC 9112 §9.6)."""
        if self._refused:
            return
        self._refused = True
        self._stop_timer()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)
        cycle = self.cycle
        if self._in_body and cycle is not None and cycle.response_complete:  # it has its answer
            self.transport.write_eof()
            return
        host = self.client and self.client[0]
        log.info("request refused", status=int(status), reason=REASONS[status], client=host)
        self._refusals.labels(int(status)).inc()
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body:  # it is answered already
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        headers = {"Connection": "close"}
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            headers["Retry-After"] = "5"
        body = problem(int(status), REASONS[status])
        answer = JSONResponse(body, status, headers, PROBLEM_TYPE)
        fields = [*self.server_state.default_headers, *answer.raw_headers]
        head = [STATUS_LINE[status], *(b"%s: %s\r\n" % field for field in fields), b"\r\n"]
        self.transport.write(b"".join([*head, answer.body]))
        self.transport.write_eof()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
