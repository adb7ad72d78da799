"""The page at ``/docs/ws`` shows the protocol in a browser."""

import re
from pathlib import Path

import pytest

from .axe import check_accessible
from .browser import browser
from .checks.protocol import AsyncApi, print_document
from .checks.service import running
from .combination import DEFAULT, find
from .conftest import Baker

HANDLERS = '''"""A command with fields of many types."""

import math
from enum import Enum
from typing import Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from .realtime import Command, CommandRouter, Ok, StrictModel
from .resources import Connection, Service, State

router = CommandRouter()


class Color(Enum):
    RED = "crimson"
    BLUE = "navy"


class Tint(StrictModel):
    """How light a color is."""

    lightness: int


Names = TypeAliasType("Names", list[str])


class Paint(Command):
    """Paint a wall."""

    type: Literal["paint"]
    color: Color = Field(description="Not `gray`")
    painters: Names
    corner: tuple[int, str]
    tints: dict[str, Tint] = Field(max_length=3)
    walls: list[int] = Field(min_length=1)
    coats: int = 2
    liters: float = math.inf
    note: str | None = None


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
TITLES = "[...document.querySelectorAll('h3')].map(each => each.innerText)"

EMPTY_CELLS = """[...document.querySelectorAll("td")].filter((each) => !each.innerText)
  .map((each) => each.parentNode.innerText)
"""

BROKEN_NAMES = """[...document.querySelectorAll("th code")]
  .filter((name) => name.getClientRects().length > 1).map((name) => name.innerText)
"""


def test_the_page_shows_every_frame_and_code(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    project.write("app/handlers.py", HANDLERS)
    with running(project) as service, browser(tmp_path / "profile") as chromium:
        page = chromium.page(f"http://127.0.0.1:{service.port}/docs/ws/")
        page.wait_until("document.querySelector('main').ariaBusy !== 'true'")
        page.resize(390)
        text = page.run("return document.body.innerText")
        titles = page.run(f"return {TITLES}")
        empty, broken = (page.run(f"return {each}") for each in (EMPTY_CELLS, BROKEN_NAMES))
        fits = page.run("return document.documentElement.scrollWidth <= innerWidth")
        section = "document.querySelector(location.hash)"
        page.run(f"location.hash = {LINKS}[0]")
        page.wait_until(f"{section}.matches(':target')")
        top = page.run(f"return {section}.getBoundingClientRect().top")
        check_accessible(page)
        ids, links = set(page.run(f"return {IDS}")), set(page.run(f"return {LINKS}"))
    assert "Nothing to show" not in text
    asyncapi = AsyncApi(print_document(project))
    assert 'One of "crimson" or "navy"' in text
    assert "Color. Not gray" in text
    assert "Names\n\nlist of string" in text
    for field in (
        "painters\tNames",
        "corner\t[integer, string]",
        "tints\tobject of Tint, maxProperties 3",
        "walls\tlist of integer, minItems 1",
        "coats\tinteger, default 2",
        "liters\tnumber, optional",
        "note\tstring or null, optional",
    ):
        assert field in text
    assert "Authorization: bearer" in text
    assert {"message (DirectMessage)", "message (RoomMessage)"} <= set(titles)
    assert "message" not in titles
    assert empty == broken == []
    assert fits
    assert 8 <= top <= 24  # a target has some space above it
    expected = asyncapi.types() | {*asyncapi.error_codes(), *asyncapi.close_codes()}
    assert expected | set(asyncapi.limits()) <= set(re.findall(r"\w+", text))
    assert links
    assert links <= ids


@pytest.mark.parametrize("combination", ["ticket", "session", "api_key", "none"])
def test_each_cell_of_a_table_says_something(
    baked: Baker, tmp_path: Path, combination: str
) -> None:
    with running(baked(find(combination))) as service, browser(tmp_path / "profile") as chromium:
        page = chromium.page(f"http://127.0.0.1:{service.port}/docs/ws/")
        page.wait_until("document.querySelector('main').ariaBusy !== 'true'")
        assert page.run("return document.querySelectorAll('td').length") > 20
        assert page.run(f"return {EMPTY_CELLS}") == []
