"""Compare the service with other servers: ``python -m benchmarks``.

Prints a table for each scenario and writes ``.bench/benchmarks.md`` with its plots, or
``docs/benchmarks.md`` with ``--full --publish``. A run of some scenarios, or of a team's project,
only prints. The service is the engine with its default policy.
"""

import argparse
import datetime
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from proof.arguments import ArgumentParser
from proof.project import Unavailable, answers_of
from tests.combination import TEMPLATE

from . import environment, plot, report
from .compiler import LIBRARY, compiled
from .load import SOURCE
from .machine import machine, pinning, versions
from .measurements import FULL, QUICK
from .processes import Failed, choose_cores
from .results import Outcome
from .rounds import Bench
from .scenarios import SCENARIOS, Scenario, fits

DOCS = TEMPLATE / "docs"
UNPUBLISHED = TEMPLATE / ".bench"


def chosen(names: str) -> list[Scenario]:
    """Return the scenarios of a comma-separated list.

    Raises:
        argparse.ArgumentTypeError: a name is unknown.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            message = f"unknown scenario {name!r}; choose from {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
    return [scenario for scenario in SCENARIOS if scenario.name in wanted]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = ArgumentParser(prog="make bench ARGS=...", description="Compare the service.")
    parser.add_argument(
        "--full", action="store_true", help="more servers and longer runs: half an hour"
    )
    parser.add_argument(
        "--only", type=chosen, default=list(SCENARIOS), metavar="NAMES", help=f"a list of: {names}"
    )
    parser.add_argument(
        "--publish", action="store_true", help="with --full: write to docs/, for the README"
    )
    parser.add_argument(
        "--project", default="", metavar="PATH", help="default: a new one with the default answers"
    )
    options = parser.parse_args(arguments)
    if options.publish and not (options.full and options.only == list(SCENARIOS)):
        parser.error("--publish needs --full and every scenario")
    if options.publish and options.project:
        parser.error("--publish cannot be combined with --project")
    return options


def main() -> None:
    """Run the benchmark; report a failure in one line."""
    options = parse()
    if sys.platform != "linux":
        sys.exit(
            "error: the load generator needs Linux (epoll), in a container or a VM if necessary"
        )
    # Exit normally, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: terminated"))
    # Each connection uses a file descriptor at both ends.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        scenarios = options.only
        if options.project:
            scenarios = chosen_project(Path(options.project).absolute(), scenarios)
        bench = Bench(scenarios, FULL if options.full else QUICK, choose_cores())
        run(bench, DOCS if options.publish else UNPUBLISHED)
    except Failed as failure:
        sys.exit(f"error: the service {failure}")
    except Unavailable as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted")


def chosen_project(project: Path, scenarios: list[Scenario]) -> list[Scenario]:
    """Select the project to measure, and return the scenarios that it supports.

    Raises:
        Unavailable: the benchmark has no credentials for it.
    """
    answers = answers_of(project)
    if answers["auth"] != "jwt":
        message = f"the benchmark needs a project with auth jwt; {project} has {answers['auth']}"
        raise Unavailable(message)
    environment.project = project
    return [scenario for scenario in scenarios if fits(scenario, answers)]


def run(bench: Bench, directory: Path) -> None:
    """Measure and print each scenario, and write the page if it has all of them.

    Raises:
        Failed: the service does not start.
        Unavailable: the service or the load generator cannot be installed.
    """
    compiled(SOURCE, *LIBRARY)
    if bench.cores.reason:
        bench.progress.say(pinning(bench.cores))
    bench.prepare()
    begin = time.monotonic()
    outcomes = []
    for scenario in bench.scenarios:
        outcomes.append(bench.run(scenario))
        bench.progress.clear()
        print(report.text(outcomes[-1]), end="\n\n", flush=True)
    if len(bench.scenarios) == len(SCENARIOS) and environment.project is None:
        write(bench, outcomes, time.monotonic() - begin, directory)


def write(bench: Bench, outcomes: list[Outcome], seconds: float, directory: Path) -> None:
    """Write the page and its plots into a directory; make it if necessary."""
    present = [server for server in bench.servers if server.title not in bench.skipped]
    page = report.Report(
        date=datetime.datetime.now(tz=datetime.UTC).strftime("%d %B %Y"),
        run=f"{'full' if bench.effort is FULL else 'quick'} run, {seconds / 60:.0f} min",
        pinning=pinning(bench.cores),
        machine=tuple(machine()),
        versions=tuple(versions(present).items()),
        servers=tuple((server.title, server.what) for server in present),
        skipped=tuple(f"{title}: {reason}" for title, reason in bench.skipped.items()),
        outcomes=tuple(outcomes),
    )
    directory.mkdir(exist_ok=True)
    (directory / "benchmarks.md").write_text(report.markdown(page), encoding="utf-8")
    for name, picture in plot.plots(outcomes):
        (directory / name).write_text(picture, encoding="utf-8")
    print(f"wrote {directory.name}/benchmarks.md and its plots")


if __name__ == "__main__":
    main()
