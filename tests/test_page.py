"""The page at ``/`` in a browser: it chats, shows the connection's life, and sends every command."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .browser import Browser, Page, browser
from .checks.service import Service, running
from .combination import COMBINATIONS, DEFAULT, find
from .conftest import Baker
from .process import check_output
from .proxy import Proxy
from .test_browser_client import make_token, served
from .venv import npm_directory

AXE = "axe-core@4.11.0"

OWN_COMMAND = '''

class Draw(Command):
    """Draw cards."""

    type: Literal["draw"]
    cards: int
    suit: Literal["hearts", "spades"] | None = None
    wild: bool = False


@router.command(Draw)
async def draw(service: Service, connection: Connection, command: Draw) -> DrawOk:
    """Draw from the deck."""
    return DrawOk(cards=[command.suit or "any"] * command.cards)
'''

LISTEN = """
globalThis.problems = [];
addEventListener("securitypolicyviolation", ({ blockedURI }) => problems.push(blockedURI));
addEventListener("error", ({ message }) => problems.push(message));
addEventListener("unhandledrejection", ({ reason }) => problems.push(`${reason}`));
console.error = (...words) => problems.push(words.join(" "));
"""
HELPERS = """
globalThis.text = (selector) => document.querySelector(selector)?.innerText ?? "";
globalThis.fill = (selector, value) => {
  const input = document.querySelector(selector);
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  input.dispatchEvent(new Event("change", { bubbles: true }));
};
globalThis.submit = (selector) => document.querySelector(selector).requestSubmit();
"""
