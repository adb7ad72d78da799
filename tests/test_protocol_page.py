"""The page at ``/docs/ws`` shows the protocol in a browser."""

import re
from pathlib import Path

from .browser import browser
from .checks.protocol import AsyncApi, print_document
from .checks.service import running
from .combination import DEFAULT
from .conftest import Baker

HANDLERS = '''"""A command with a field of an enum."""

from enum import Enum
from typing import Literal

from .realtime import Command, CommandRouter, Ok
from .resources import Connection, Service, State

router = CommandRouter()


class Color(Enum):
    RED = "crimson"
    BLUE = "navy"


class Paint(Command):
    """Paint a wall."""

    type: Literal["paint"]
    color: Color


@router.connecting
async def begin(service: Service, connection: Connection) -> State:
    """Return the state of a new connection."""
    return State()


@router.command(Paint)
async def paint(service: Service, connection: Connection, command: Paint) -> Ok:
    """Paint."""
    return Ok()
'''

IDS = "[...document.querySelectorAll('[id]')].map(each => each.id)"
LINKS = """[...document.querySelectorAll('a[href^="#"]')].map(each => each.hash.slice(1))"""


def test_the_page_shows_every_frame_and_code(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    project.write("app/handlers.py", HANDLERS)
    with running(project) as service, browser(tmp_path / "profile") as chromium:
        page = chromium.page(f"http://127.0.0.1:{service.port}/docs/ws/")
        page.wait_until("document.querySelector('main').ariaBusy !== 'true'")
        text = page.run("return document.body.innerText")
        ids, links = set(page.run(f"return {IDS}")), set(page.run(f"return {LINKS}"))
    assert "Nothing to show" not in text
    asyncapi = AsyncApi(print_document(project))
    assert 'One of "crimson" or "navy"' in text
    expected = asyncapi.types() | {*asyncapi.error_codes(), *asyncapi.close_codes()}
    assert expected | set(asyncapi.limits()) <= set(re.findall(r"\w+", text))
    assert links
    assert links <= ids
