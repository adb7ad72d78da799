"""The page at ``/docs/ws`` shows the protocol in a browser."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from .checks.protocol import AsyncApi
from .checks.service import running
from .combination import DEFAULT
from .conftest import Baker
from .process import run
from .test_close_codes import FLAGS

WAIT_MS = 60_000
"""How long the browser's clock, which runs ahead while nothing happens, lets the page work."""


class Page(HTMLParser):
    """The words of the page, and its ids and links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an id or a link within the page."""
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            if name == "href" and value and value.startswith("#"):
                self.links.add(value[1:])

    def handle_data(self, data: str) -> None:
        """Note the words of a text."""
        self.words.update(re.findall(r"\w+", data))


def test_the_page_shows_every_frame_and_code(baked: Baker, tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    options = [f"--user-data-dir={tmp_path}", f"--virtual-time-budget={WAIT_MS}", "--dump-dom"]
    with running(baked(DEFAULT)) as service:
        url = f"http://127.0.0.1:{service.port}/docs/ws"
        done = run([program, *FLAGS, *options, url], tmp_path)
    assert done.returncode == 0, done.stderr
    page = Page(done.stdout)
    asyncapi = AsyncApi(baked(DEFAULT))
    told = asyncapi.types() | {*asyncapi.error_codes(), *asyncapi.close_codes(), *asyncapi.limits()}
    assert told <= page.words
    assert page.links
    assert page.links <= page.ids
