"""The report: tables for the terminal, and a page in Markdown."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .results import MAX_BUSY, MAX_FOREIGN, Metric, Outcome, Row, Target

Table = list[list[str]]

WORDS = {"server", "remarks", "scenario", "target", "verdict", "what", "what it is", "version"}
"""The columns that hold words; the others hold figures."""

METHOD = """\
- {pinning}.
- The generator is one epoll loop in C, {busy:.0%} busy at most in this run. It never sleeps while
  it measures, so that waking it costs the servers nothing.
- Servers of a scenario run at the same time, idle but for the one that is measured. They are
  measured in rounds, in reverse order every other round, so that whatever drifts hits all alike.
  Each scenario has new processes; for memory and the slow consumer each measurement has.
- Figures are medians of {rounds} rounds; the range is from the lowest to the highest. Each
  measurement warms up first. Messages have 128 bytes; the publisher is a member and gets its own.
- Every delivery is checked by its number: what is missing, doubled or out of order is told in the
  table.
- Latency is taken from the time at which a message was *due*, so that a server that falls behind
  cannot hide how long people waited (no coordinated omission).
- A measurement in which something else had more than 4 % of the servers' core is repeated, twice at
  most; when it stays so, the table tells.
- All Python servers use the same Python and the same versions of what they share; all log warnings
  only. The service is in production mode, with every option on and a token for each connection. It
  counts what its limits are about, but they are set so high that nothing is refused.
"""

CAVEATS = """\
- The network is loopback: the core of the sender does the receiver's half of TCP, too. A network
  card costs less of it, and the advantage of fewer writes may be another.
- The service writes once to each connection per turn of its event loop. That pays when messages
  overlap; one message at a time shows what is left without it.
- The C loop writes each message by itself. It is a bound for servers that do so, not for those that
  join messages.
- At 100 messages per second nothing can be joined: everybody writes once for each member there, and
  the service checks and counts besides. Between two messages the processor sleeps, and then fetches
  anew what each connection has in memory, which is little in C and much in Python and JavaScript:
  the columns of CPU tell, beside those of one message at a time.
- Echo is mostly what no server in Python can do without: the kernel's part, which the C loop shows,
  and the event loop's. With what is left, in the column of CPU, the service parses and checks each
  message, looks up a user and counts what is owed; the manager's echo returns the text unread.
- The same writes may take a processor that is shared with others half as much time again for
  seconds on end. So figures of one scenario compare, and those of two scenarios do less.
- Memory is what the processes keep resident; buffers in the kernel come on top.
- The Redis server shares the generator's core, and the two processes share the servers' core.
- These servers do not do the same. The service checks tokens, validates every frame, bounds what a
  client may owe; most others do none of that.
- Other machines have other figures. Compare ratios, and those with care.
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A run, and what it ran on."""

    date: str
    run: str
    """What kind of run, such as "quick run", and how long it took."""
    pinning: str
    machine: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    servers: tuple[tuple[str, str], ...]
    """Titles, and what they stand for."""
    left_out: tuple[str, ...]
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
        f"`make bench` wrote this page on {report.date} ({report.run}). *Factor* says how many"
        " times better the service's median is, be it more or less that is better; below 1 the"
        " other server is better.",
        *(f"Left out: {line}." for line in report.left_out),
    ]
    for outcome in report.outcomes:
        parts += [f"## {outcome.title}", outcome.description, _markdown(results(outcome))]
    parts += [
        "## Targets",
        "What the service is meant to reach, in the versions and on the machine below.",
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
  <img alt="Bars that compare the service with other servers; the tables below have the figures."
    src="benchmarks-light.svg">
</picture>"""


def results(outcome: Outcome) -> Table:
    """Return a scenario's table, its head first."""
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
    """Return a ratio as people read it."""
    return "–" if ratio is None else f"{ratio:.{1 if ratio >= 10 else 2}f}×"


def _remarks(row: Row) -> Iterator[str]:
    yield from (sample.remark for sample in row.samples if sample.remark)
    if row.missing or not row.samples:
        yield row.missing or "not measured"
    foreign = [sample.foreign or 0 for sample in row.samples]
    if disturbed := [share for share in foreign if share > MAX_FOREIGN]:
        yield (
            f"something else had up to {max(disturbed):.0%} of the core in "
            f"{len(disturbed)} of {len(foreign)} rounds"
        )
    if row.busy > MAX_BUSY:
        yield f"the generator was {row.busy:.0%} busy and may have been the limit"


def _verdict(outcome: Outcome, target: Target) -> tuple[str, str, str]:
    """Return a target, what was reached, and whether that is enough, all in words."""
    limits = {"at least": target.at_least, "at most": target.at_most}
    limit = " and ".join(f"{word} {at:g}" for word, at in limits.items() if at is not None)
    value = outcome.reached(target)
    verdict = "not measured" if value is None else "met" if target.met(value) else "not met"
    if target.beside is None:
        return f"{limit} {target.metric.unit}", target.metric.text(value), verdict
    return f"{limit} × {outcome.row(target.beside).title}", times(value), verdict


def targets(outcomes: Iterable[Outcome]) -> Table:
    """Return the table of what was to be reached."""
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
