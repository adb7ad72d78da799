"""Measure the service: ``python -m bench --help``."""

import gc
import os
import resource
import signal
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from statistics import median

import httpx

from app.realtime import RealtimeSettings

from . import SCENARIOS, table
from .clients import Failure
from .processes import CLIENT, PROJECT, pin, run_bare_loop, run_service
from .scenarios import Outcome, Scenario

LAST_RUN = PROJECT / ".bench.json"
MEMBERS = 100
OPEN_FILES = 4096
BUSY = 0.85
"""A client that is busier may be the limit."""


def seconds(text: str) -> float:
    """Return how long to measure each time."""
    # Later, servers ping the quiet, which these clients do not answer.
    if text.replace(".", "", 1).isdecimal() and 0.1 <= float(text) <= 10:
        return float(text)
    msg = f"{text!r} is no number from 0.1 to 10"
    raise ArgumentTypeError(msg)


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what to measure; exit with one line if that cannot be told."""
    parser = ArgumentParser(prog="bench", usage=SUPPRESS)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--only", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--seconds", type=seconds, default=0.8, metavar="S", help="for each round")
    parser.add_argument(
        "--rounds", type=int, default=4, choices=range(1, 11), metavar="N", help="1 to 10"
    )
    return parser.parse_args(arguments)


def show(progress: str) -> None:
    """Replace the last line on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def measure(scenario: Scenario, options: Namespace) -> dict[str, list[Outcome]]:
    """Return the outcomes by server. The two take turns: A B, B A, A B, and so on.

    Raises:
        Failure: a server does not start, refuses, ends, or does not deliver what it should.

    """
    with run_service() as service, run_bare_loop() as bare_loop:
        servers = [service, bare_loop] if scenario.compared else [service]
        outcomes: dict[str, list[Outcome]] = {server.name: [] for server in servers}
        for number in range(options.rounds if scenario.compared else 1):
            for server in reversed(servers) if number % 2 else servers:
                show(f"{scenario.name}, round {number + 1} of {options.rounds}: {server.name}")
                try:
                    outcome = scenario.measure(server, MEMBERS, options.seconds)
                except (Failure, OSError, httpx.HTTPError) as failure:
                    raise server.failure(f"{scenario.name}: {failure}") from failure
                outcomes[server.name].append(outcome)
    show("")
    return outcomes


def rows(scenario: Scenario, outcomes: dict[str, list[Outcome]]) -> Iterator[table.Row]:
    """Yield the scenario's rows of the table."""
    service, *bare_loop = outcomes.values()
    for position, label in enumerate(scenario.labels):
        figures = [outcome.figures[position] for outcome in service if outcome.figures]
        bare = [outcome.figures[position] for served in bare_loop for outcome in served]
        shares = [figure / other for figure, other in zip(figures, bare, strict=False)]
        yield table.Row(label, scenario.unit, figures, shares)


def run(options: Namespace) -> None:
    """Measure, print the table, and keep its figures for the next time."""
    try:
        last_run = table.load(LAST_RUN)
    except ValueError as damage:
        print(f"note: {damage}")
        last_run = {}
    if not pin(0, CLIENT):
        print("note: client and servers have no processor cores of their own here")
    print(table.HEADER)
    done: list[table.Row] = []
    for scenario in SCENARIOS:
        if scenario.name in options.only:
            outcomes = measure(scenario, options)
            for row in rows(scenario, outcomes):
                print(row.line(last_run), flush=True)
                done.append(row)
            for name, served in outcomes.items():
                if (busy := median(outcome.busy for outcome in served)) > BUSY:
                    print(f"  note: the client was {busy:.0%} busy; {name} may be faster")
    table.save(LAST_RUN, done, last_run)


def main() -> None:
    """Prepare this process and run; complain in one line."""
    options = parse(sys.argv[1:])
    for name in RealtimeSettings.model_fields:
        os.environ.pop(name.upper(), None)  # which may be set for another service
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that the servers are ended, too
    gc.freeze()  # what is loaded by now is not looked through in the middle of a measurement
    try:
        run(options)
    except Failure as failure:
        show("")
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        show("")
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
