"""A room in which the numbers 1, 2, 3, … are published, and what a member must get of them."""

import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .checks.service import Client, Service
from .proxy import Proxy
from .waiting import wait_until

ROOM = "numbers"
PAUSE_S = 0.001
HISTORY_MESSAGES = 100

Entry = tuple[str, int]
"""``message`` and its number, or ``state`` and the last number that was stored then."""


class Numbers(ThreadingHTTPServer):
    """Stores each number before it is published; answers with the last one that is stored."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Question)
        self.last = 0

    @property
    def url(self) -> str:
        """Where a member loads the state."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def publish(self, publisher: Client, count: int = 1) -> None:
        """Publish some numbers."""
        for _ in range(count):
            self.last += 1
            publisher.ask(type="publish", room=ROOM, data=self.last)

    @contextmanager
    def published(self, service: Service) -> Iterator[None]:
        """Publish numbers from a thread, one after the other."""
        stop = threading.Event()

        def publish() -> None:
            with service.client("bob") as bob:
                bob.ask(type="join", room=ROOM)
                while not stop.is_set():
                    self.publish(bob)
                    time.sleep(PAUSE_S)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class Question(BaseHTTPRequestHandler):
    """A request for the state, from any page."""

    server: Numbers

    def do_GET(self) -> None:
        """Answer with the last number."""
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(str(self.server.last).encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def spoil(proxy: Proxy, room: Numbers, cuts: int) -> None:
    """Cut connections after any byte, and refuse new ones until the history has lost messages."""
    rng = random.Random(18)  # noqa: S311 - no cryptography here
    for _ in range(10):
        enough = proxy.cuts + cuts // 10
        proxy.budget = lambda: rng.randrange(1, 1_500)
        proxy.cut()
        wait_until(lambda enough=enough: proxy.cuts >= enough)  # type: ignore[misc]
        proxy.refuses = True
        proxy.cut()
        missed = room.last + 2 * HISTORY_MESSAGES
        wait_until(lambda missed=missed: room.last >= missed)  # type: ignore[misc]
        proxy.refuses = False
    proxy.budget = lambda: None
    proxy.cut()


@contextmanager
def numbers() -> Iterator[Numbers]:
    """Serve the state."""
    with Numbers() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def check(entries: Iterable[Entry], last: int) -> None:
    """Assert that nothing was lost silently, duplicated, or out of order."""
    covered = newest = 0
    is_loaded = False
    for kind, number in entries:
        if kind == "state":
            covered, is_loaded = max(covered, number), True
            continue
        assert number > newest, f"{number} comes after {newest}"
        expected = covered + 1 if is_loaded else newest + 1
        assert number <= expected, f"{number} comes, and {expected} was lost"
        newest, covered, is_loaded = number, max(covered, number), False
    assert covered == last, f"{last} was the last, and {covered} has come"
