"""Inject faults and count the deliveries: ``python -m tests.realtime.chaos --help``."""

import asyncio
import os
import random
import signal
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from tempfile import TemporaryDirectory

from app.realtime import RealtimeSettings

from ..processes import Failure
from .ledger import Totals
from .trial import Trial


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers within these limits."""

    def read(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        msg = f"{text!r} is not a whole number from {least} to {most}"
        raise ArgumentTypeError(msg)

    return read


def parse(arguments: Sequence[str]) -> Namespace:
    """Parse the command line; exit with one line if it is wrong."""
    parser = ArgumentParser(prog="chaos", usage=SUPPRESS)
    parser.add_argument(
        "--seconds", type=integer(1, 600), default=60, metavar="S", help="duration, 1 to 600"
    )
    parser.add_argument(
        "--clients", type=integer(2, 200), default=20, metavar="N", help="clients, 2 to 200"
    )
    parser.add_argument(
        "--seed",
        type=integer(0, 999_999),
        default=random.randrange(1_000_000),
        metavar="N",
        help="seed of the faults, as printed by an earlier run",
    )
    return parser.parse_args(arguments)


def show(progress: str) -> None:
    """Replace the last line on a terminal."""
    if sys.stderr.isatty():
        width = get_terminal_size().columns - 1
        print(f"\r\033[K{progress[:width]}", end="", file=sys.stderr, flush=True)


def table(totals: Totals, faults: Mapping[str, int]) -> Iterator[str]:
    """Yield the lines of the report: the faults, and the fate of the messages."""
    for fault, count in sorted(faults.items()):
        yield f"{fault:37}{count:10,}"
    yield ""
    for label, count, meaning in (
        ("sent", totals.sent, "messages acknowledged with an offset"),
        ("not acknowledged", totals.unacknowledged, "messages, delivered at most once"),
        ("repeated", totals.repeated, "messages with a key, sent more than once"),
        ("received live", totals.live, "sent messages, counted for each member"),
        ("recovered by replay", totals.recovered, "replayed to a member that reconnected"),
        ("announced as gaps", totals.announced, "missed in an announced gap"),
        ("loads of the state", totals.loads, "by four followers, with the Python client"),
        ("out of order", totals.out_of_order, "or with two offsets; must be 0"),
        ("duplicated", totals.duplicated, "must be 0"),
        ("silently lost", totals.lost, "must be 0"),
    ):
        yield f"{label:37}{count:10,}  {meaning}"


async def run(options: Namespace) -> Totals:
    """Run a trial and print its report.

    Raises:
        Failure: the trial could not be completed.
    """
    print(f"{options.clients} clients, {options.seconds} seconds, seed {options.seed}", flush=True)
    with TemporaryDirectory() as directory:
        trial = Trial(
            Path(directory),
            clients=options.clients,
            seconds=options.seconds,
            seed=options.seed,
        )
        running = asyncio.create_task(trial.run(show))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        await running
    show("")
    totals = trial.totals()
    print("\n".join(table(totals, trial.faults)))
    return totals


def main() -> None:
    """Run the trial; report a failure in one line."""
    options = parse(sys.argv[1:])
    for name in RealtimeSettings.model_fields:
        os.environ.pop(name.upper(), None)  # it may be meant for another service
    try:
        totals = asyncio.run(run(options))
    except Failure as failure:
        show("")
        sys.exit(f"error: {failure}")
    except asyncio.CancelledError:
        show("")
        sys.exit("interrupted")
    if not totals.is_correct:
        sys.exit("error: messages were lost, duplicated or out of order")


if __name__ == "__main__":
    main()
