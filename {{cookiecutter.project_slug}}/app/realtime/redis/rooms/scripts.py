"""The Lua scripts, each known to Redis by its SHA-1."""

from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from ..connections import Command

LUA = Path(__file__).parent / "lua"

_texts: dict[str, str] = {}


class Script:
    """A script made of one or more files."""

    def __init__(self, *names: str) -> None:
        text = "\n".join((LUA / f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self._sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
        _texts[self._sha] = text

    def command(self, keys: Sequence[str], *arguments: Any) -> Command:
        """Return the command that runs the script."""
        return "EVALSHA", self._sha, len(keys), *keys, *arguments


async def execute_scripts(
    execute: Callable[[Sequence[Command]], Awaitable[list[Any]]], commands: Sequence[Command]
) -> list[Any]:
    """Execute commands, scripts among them, and return the replies.

    A server that does not know a script, as after a restart, gets its text.
    """
    replies = await execute(commands)
    unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        scripts = [("EVAL", _texts[commands[n][1]], *commands[n][2:]) for n in unknown]
        for number, reply in zip(unknown, await execute(scripts), strict=True):
            replies[number] = reply
    return replies
