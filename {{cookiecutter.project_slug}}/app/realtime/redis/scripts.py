"""The Lua scripts, which Redis identifies by their SHA-1."""

from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

from .connections import RedisCommand

LUA = Path(__file__).parent / "lua"

_texts: dict[str, str] = {}


class Script:
    """A script made of one or more files below ``lua``."""

    def __init__(self, *names: str) -> None:
        text = "\n".join((LUA / f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self._sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
        _texts[self._sha] = text

    def command(self, keys: Sequence[str], *arguments: Any) -> RedisCommand:
        """Return the command that runs the script."""
        return "EVALSHA", self._sha, len(keys), *keys, *arguments


def with_text(command: RedisCommand) -> RedisCommand:
    """Return the command, with a script's text in place of its SHA-1, which Redis may not know."""
    return ("EVAL", _texts[command[1]], *command[2:]) if command[0] == "EVALSHA" else command
