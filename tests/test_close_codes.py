"""Close codes reach clients that continue to send: a TCP reset would lose them."""

import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import websocket

from .browser import chromium
from .checks.service import running
from .combination import find
from .conftest import Baker

TRIES = 200
DEADLINE_S = 90.0
BROWSER_S = 300.0

LARGE = 1_000_000
PING = json.dumps({"type": "ping"})
FLOOD = 1_200
"""Many more pings than two bursts allow, also if they take seconds."""
MORE = 16
"""Number of messages of `MORE_BYTES` after the offence."""
MORE_BYTES = 60_000

PAGE = """<!DOCTYPE html>
<script>
const LARGE = "x".repeat(%(LARGE)d), MORE = "y".repeat(%(MORE_BYTES)d);
const CASES = [
  [1003, socket => socket.send(new Uint8Array(1))],
  [1009, socket => socket.send(LARGE)],
  [4013, socket => { for (let i = 0; i < %(FLOOD)d; i++) socket.send('%(PING)s'); }],
];
function closeCode(offend) {
  return new Promise(resolve => {
    const socket = new WebSocket("%(uri)s");
    socket.onopen = () => {
      offend(socket);
      for (let i = 0; i < %(MORE)d; i++) socket.send(MORE);
    };
    socket.onclose = event => resolve(event.code);
  });
}
async function main() {
  const codes = [];
  for (let i = 0; i < %(TRIES)d; i++) {
    const [expected, offend] = CASES[i %% CASES.length];
    codes.push([expected, await closeCode(offend)]);
  }
  await fetch("/codes", {method: "POST", body: JSON.stringify(codes)});
}
main();
</script>
"""


class Page(ThreadingHTTPServer):
    """Serves `PAGE`, which posts the close codes that it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PageRequest)
        self.html = ""
        self.codes: queue.Queue[list[tuple[int, int]]] = queue.Queue()

    @property
    def origin(self) -> str:
        """Return the origin of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class PageRequest(BaseHTTPRequestHandler):
    """One request of the browser."""

    server: Page

    def do_GET(self) -> None:
        """Serve the page."""
        self._answer(self.server.html.encode())

    def do_POST(self) -> None:
        """Take the codes."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.codes.put([(expected, code) for expected, code in json.loads(body)])
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Page() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def uri(baked: Baker, page: Page) -> Iterator[str]:
    """Run a service that accepts the page's origin, any rate of handshakes, and few messages."""
    with running(
        baked(find("none")),
        ALLOWED_ORIGINS=page.origin,
        MAX_HANDSHAKES_PER_S="100000",
        MAX_HANDSHAKES_PER_S_PER_ADDRESS="100000",
        MAX_MESSAGES_PER_S="20",
        CLOSE_TIMEOUT_S="60",
    ) as service:
        yield service.connect_options("alice")["uri"]


def send_flood(client: websocket.WebSocket) -> None:
    """Send faster than the limit."""
    for _ in range(FLOOD):
        client.send(PING)


def send_reserved_opcode(client: websocket.WebSocket) -> None:
    """Send an empty frame with opcode 3, which the package refuses to send."""
    assert client.sock is not None
    client.sock.sendall(b"\x83\x80" + bytes(4))


OFFENCES: list[tuple[int, Callable[[websocket.WebSocket], object]]] = [
    (1002, send_reserved_opcode),
    (1003, lambda client: client.send_binary(b"x")),
    (1007, lambda client: client.send(b"\xff", websocket.ABNF.OPCODE_TEXT)),
    (1009, lambda client: client.send("x" * LARGE)),
    (4013, send_flood),
]


def close_code(client: websocket.WebSocket) -> int:
    """Read up to the close frame, and return its code."""
    while True:
        opcode, payload = client.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(payload[:2])


def test_close_codes_reach_the_websocket_client_package(uri: str, page: Page) -> None:
    codes = []
    for number in range(TRIES):
        expected, offend = OFFENCES[number % len(OFFENCES)]
        client = websocket.create_connection(uri, timeout=DEADLINE_S, origin=page.origin)
        try:
            offend(client)
            for _ in range(MORE):
                client.send("y" * MORE_BYTES)
            codes.append((expected, close_code(client)))
        finally:
            client.shutdown()  # type: ignore[no-untyped-call]
    assert_expected(codes)


def test_close_codes_reach_a_page_in_chromium(uri: str, page: Page, tmp_path: Path) -> None:
    page.html = PAGE % (globals() | {"uri": uri})
    with chromium(tmp_path, page.origin):
        codes = page.codes.get(timeout=BROWSER_S)
    assert_expected(codes)


def assert_expected(codes: list[tuple[int, int]]) -> None:
    """Assert that each connection was closed with the expected code."""
    assert len(codes) == TRIES
    assert Counter(codes) == Counter((expected, expected) for expected, _ in codes)
