"""Starts a project's service, and tells how users connect to it: ``python launcher.py app``.

It runs with the project's Python in the project's directory. The service and the tools in `dev`
import the same packages, which takes longer than the rest of their work. So this process imports
the packages once, and forks the service.

Each line of standard input is a request, each line of standard output an answer, as JSON: null asks
for the exit status of the service, ``[port, name, ...]`` for how these users connect.
"""

import asyncio
import json
import os
import runpy
import signal
import sys
from dataclasses import asdict
from importlib import import_module
from typing import Any


def main(module: str) -> None:
    """Write a first `.env`, start the service, answer with its process id, then answer requests."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the project prints goes to the log
    sys.path[0] = os.getcwd()
    import_module("dev.env").main()
    import_module("app.settings")
    service = os.fork()
    if service == 0:
        answers.close()
        sys.argv = [module]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    print(service, file=answers)
    status = None
    for line in sys.stdin:
        request = json.loads(line)
        if request is None and status is None:
            ended, code = os.waitpid(service, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if ended else None
        print(json.dumps(options(*request) if request else status), file=answers)
    if status is None:  # the tests have ended, and perhaps could not end it
        os.kill(service, signal.SIGKILL)


def options(port: str, *names: str) -> list[Any] | str:
    """Return the options of each user for a WebSocket client, or why there are none."""
    os.environ["PORT"] = port
    settings = import_module("app.settings").Settings.load()
    connect_options = import_module("tests.realtime.client").connect_options
    try:
        return [asdict(asyncio.run(connect_options(settings, name))) for name in names]
    except SystemExit as failure:
        return str(failure)


if __name__ == "__main__":
    main(sys.argv[1])
