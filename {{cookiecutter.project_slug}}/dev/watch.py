"""Serve, and restart when app/ or .env changes."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from .processes import running


def is_env_file(_: Change, path: str) -> bool:
    """Return whether ``.env`` has changed."""
    return Path(path).name == ".env"


async def watch(
    changed: asyncio.Event, path: str, matches: Callable[[Change, str], bool], *, recursive: bool
) -> None:
    """Set the event at each change below a path that ``matches``."""
    async for _ in awatch(path, watch_filter=matches, recursive=recursive):
        changed.set()


async def serve(changed: asyncio.Event) -> None:
    """Run the service, and start it again after each change."""
    while True:
        changed.clear()
        async with running(sys.executable, "-m", "app"):
            await changed.wait()


async def serve_and_watch() -> None:
    """Serve, and restart at changes, until cancelled."""
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch(changed, "app", DefaultFilter(), recursive=True))
        # The folder, not `.env` itself, since most editors replace the file.
        group.create_task(watch(changed, ".", is_env_file, recursive=False))
        await serve(changed)


async def main() -> None:
    """Serve until a signal."""
    serving = asyncio.create_task(serve_and_watch())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    await serving


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(main())
