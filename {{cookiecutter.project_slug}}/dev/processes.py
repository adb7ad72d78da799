"""Run programs for development, such as the service."""

import asyncio
import os
import signal
from asyncio.subprocess import Process, create_subprocess_exec
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_until_signal(work: Coroutine[Any, Any, int | None]) -> int:
    """Run a coroutine until it ends or a signal cancels it; return the exit status."""

    async def run() -> int | None:
        task = asyncio.create_task(work)
        for number in ENDING:  # these handlers wake the loop whichever thread gets the signal
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(run()) or 0
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0


@asynccontextmanager
async def running(
    *command: str,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
    stop_by: signal.Signals = signal.SIGINT,
) -> AsyncIterator[Process]:
    """Run a program, and stop it with a signal at the end.

    It has its own process group, so that the terminal does not send it Ctrl+C as well: a second
    signal ends the service at once. SIGINT is blocked in it until `app.__main__` can handle it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = await create_subprocess_exec(
            *command, env=os.environ | (env or {}), stdout=stdout, process_group=0
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # it has ended
            process.send_signal(stop_by)
        try:
            await process.wait()
        finally:  # a second signal ends it at once
            with suppress(ProcessLookupError):
                process.kill()
