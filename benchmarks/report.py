"""The report: tables for the terminal, and a page in Markdown."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .results import MAX_BUSY, MAX_FOREIGN, Metric, Outcome, Row, Target

Table = list[list[str]]

WORDS = {"server", "remarks", "scenario", "target", "verdict", "what", "what it is", "version"}
"""The columns with text; the others have figures."""

METHOD = """\
- {pinning}.
- The load generator is one epoll loop in C, at most {busy:.0%} busy in this run. It does not sleep
  during a measurement, since waking it would cost the servers' core time.
- The servers of a scenario run at the same time; only one is measured, the others are idle. Rounds
  are interleaved, in reverse order every other round, so that drift affects all servers alike.
  Each scenario starts new processes; memory, hostile clients and slow consumer start them for each
  measurement.
- Figures are medians of {rounds} rounds; the range is from the lowest to the highest. Each
  measurement warms up first. Messages have 128 bytes; the publisher is a member and gets its own.
- Every delivery is checked by its number: the table reports missing, duplicate and out-of-order
  deliveries.
- Latency is measured from the time at which a message was *due*, so that a server that falls behind
  cannot hide the delay (coordinated omission).
- A measurement in which other processes used more than 4 % of the servers' core is repeated, at
  most twice; if the last one was disturbed too, the table reports it.
- All Python servers use the same Python and the same versions of shared packages; all log only
  warnings. The service runs in production mode, with every option and a token for each connection.
  Its limits are enforced, with values that no client reaches.
"""

CAVEATS = """\
- The network is loopback: the sender's core also does the receiver's half of TCP. A network card
  takes over some of that work, so the advantage of fewer writes may differ.
- The service writes once to each connection per turn of its event loop. That saves time when
  messages overlap; the scenario with one message at a time shows the rate without this advantage.
- The C loop makes one write for each message and member. It is a bound for servers that do the
  same, not for servers that batch messages.
- At 100 messages per second there is nothing to batch: every server writes once for each member and
  message, and the service also validates and counts. Between two messages the processor sleeps, and
  then has to reload the memory of each connection, which is small in C and large in Python and
  JavaScript: compare the CPU columns with those of one message at a time.
- Echo consists mostly of costs that every Python server has: the kernel's, as in the C loop, and
  the event loop's. In the rest of its CPU time the service parses and validates each message, looks
  up a user and checks the limit of unsent bytes; the manager's echo returns the text unread.
- On a shared processor the same writes may take 50 % longer for several seconds. Compare figures
  within a scenario rather than between scenarios.
- Memory is the resident memory of the processes; kernel buffers are not included.
- The Redis server shares the generator's core, and the two processes share the servers' core.
- The servers differ in what they do. The service verifies tokens, validates every frame and limits
  the unsent bytes per client; most others do none of that.
- Other machines have other figures. Compare ratios, with care.
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A run: its outcomes, machine and versions."""

    date: str
    run: str
    """Kind and duration, such as "quick run, 3 min"."""
    pinning: str
    machine: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    servers: tuple[tuple[str, str], ...]
    """Titles and descriptions."""
    skipped: tuple[str, ...]
    outcomes: tuple[Outcome, ...]


def text(outcome: Outcome) -> str:
    """Return a scenario's results for a terminal."""
    lines = [outcome.title, *_aligned(results(outcome))]
    lines += [f"  target: {'; '.join(_verdict(outcome, target))}" for target in outcome.targets]
    return "\n".join(lines)


def markdown(report: Report) -> str:
    """Return the page."""
    rows = [row for outcome in report.outcomes for row in outcome.rows if row.samples]
    rounds = sorted({len(row.samples) for row in rows}) or [0]
    method = METHOD.format(
        pinning=report.pinning,
        busy=max((row.busy for row in rows), default=0),
        rounds=" to ".join(str(count) for count in dict.fromkeys([rounds[0], rounds[-1]])),
    )
    parts = [
        "# Benchmarks",
        PICTURE,
        f"`make bench` wrote this page on {report.date} ({report.run}). *Factor* is how many times"
        " better the service's median is: higher for rates, lower for latency and memory. Below 1"
        " the other server is better.",
        *(f"Not measured: {line}." for line in report.skipped),
    ]
    for outcome in report.outcomes:
        parts += [f"## {outcome.title}", outcome.description, _markdown(results(outcome))]
    parts += [
        "## Targets",
        "Targets of the service, with the versions and the machine below.",
        _markdown(targets(report.outcomes)),
        "## Method",
        method,
        "## Caveats",
        CAVEATS,
        "## Servers",
        _markdown([["server", "what it is"], *map(list, report.servers)]),
        "## Versions",
        _markdown([["what", "version"], *map(list, (*report.machine, *report.versions))]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


PICTURE = """\
<picture>
  <source media="(prefers-color-scheme: dark)" srcset="benchmarks-dark.svg">
  <img alt="Bar charts that compare the service with other servers; the tables have the figures."
    src="benchmarks-light.svg">
</picture>"""


def results(outcome: Outcome) -> Table:
    """Return a scenario's table, starting with the header."""
    units = [metric.unit for metric in outcome.metrics]
    table = [["server", units[0], "range", "factor", *units[1:], "remarks"]]
    for row in outcome.rows:
        medians = [metric.text(row.median(metric)) for metric in outcome.metrics]
        factor = "" if row is outcome.rows[0] else times(outcome.factor(row))
        remarks = "; ".join(dict.fromkeys(_remarks(row)))
        spread = _range(row, outcome.metric)
        table.append([row.title, medians[0], spread, factor, *medians[1:], remarks])
    if not any(line[-1] for line in table[1:]):
        table = [line[:-1] for line in table]
    return table


def _range(row: Row, metric: Metric) -> str:
    values = row.values(metric)
    if len(values) < 2:
        return metric.text(None)
    return f"{metric.text(min(values))} to {metric.text(max(values))}"


def times(ratio: float | None) -> str:
    """Format a ratio."""
    return "–" if ratio is None else f"{ratio:.{1 if ratio >= 10 else 2}f}×"


def _remarks(row: Row) -> Iterator[str]:
    yield from (sample.remark for sample in row.samples if sample.remark)
    if row.missing or not row.samples:
        yield row.missing or "not measured"
    foreign = [sample.foreign or 0 for sample in row.samples]
    if disturbed := [share for share in foreign if share > MAX_FOREIGN]:
        yield (
            f"other processes used up to {max(disturbed):.0%} of the core in "
            f"{len(disturbed)} of {len(foreign)} rounds"
        )
    if row.busy > MAX_BUSY:
        yield f"the load generator was {row.busy:.0%} busy and may have been the bottleneck"


def _verdict(outcome: Outcome, target: Target) -> tuple[str, str, str]:
    """Return the cells of a target: the limit, the result and the verdict."""
    limits = {"at least": target.at_least, "at most": target.at_most}
    limit = " and ".join(f"{word} {at:g}" for word, at in limits.items() if at is not None)
    value = outcome.reached(target)
    verdict = "not measured" if value is None else "met" if target.met(value) else "not met"
    if target.beside is None:
        return f"{limit} {target.metric.unit}", target.metric.text(value), verdict
    return f"{limit} × {outcome.row(target.beside).title}", times(value), verdict


def targets(outcomes: Iterable[Outcome]) -> Table:
    """Return the table of targets."""
    return [["scenario", "target", "reached", "verdict"]] + [
        [outcome.title, *_verdict(outcome, target)]
        for outcome in outcomes
        for target in outcome.targets
    ]


def _markdown(table: Table) -> str:
    head, *rows = table
    rule = ["---" if name in WORDS else "---:" for name in head]
    lines = (" | ".join(map(_escaped, line)) for line in (head, rule, *rows))
    return "\n".join(f"| {line} |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _aligned(table: Table) -> list[str]:
    columns = []
    for column in zip(*table, strict=True):
        width = max(map(len, column))
        words = column[0] in WORDS
        columns.append([cell.ljust(width) if words else cell.rjust(width) for cell in column])
    return ["  " + "  ".join(line).rstrip() for line in zip(*columns, strict=True)]
