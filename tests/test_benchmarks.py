"""The benchmark: evaluation, report, progress, rounds and error handling."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from markdown_it import MarkdownIt

from benchmarks import __main__, compiler, environment, processes
from benchmarks.__main__ import parse
from benchmarks.measurements import FULL, QUICK, Subject, Trial
from benchmarks.plot import DARK, LIGHT, plots, rounded, shortened, svg
from benchmarks.processes import (
    Cores,
    Failed,
    Meter,
    Program,
    forget_peak,
    listening_port,
    memory_bytes,
)
from benchmarks.progress import Progress
from benchmarks.report import Report, markdown, text, times
from benchmarks.results import Metric, Outcome, Row, Sample, Target
from benchmarks.rounds import Bench
from benchmarks.scenarios import SCENARIOS, Scenario, fits
from benchmarks.servers import Server, authorization
from proof.project import Answers, Unavailable

from .combination import TEMPLATE, find
from .conftest import Baker
from .process import environment as clean_environment
from .process import run

DEADLINE_S = 30.0

RATE = Metric("deliveries/s")
DELAY = Metric("p99, ms", more_is_better=False, digits=2)

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="needs a C compiler: install gcc or clang"
)


def row(name: str, *values: float | None, metric: Metric = RATE, title: str = "") -> Row:
    """Return a row with a sample for each value."""
    samples = tuple(Sample({metric: value}) for value in values)
    return Row(name, title or name, samples)


def outcome(*rows: Row, metric: Metric = RATE, targets: Sequence[Target] = ()) -> Outcome:
    """Return an outcome of these rows."""
    return Outcome("Fan-out", "One member publishes.", (metric,), rows, tuple(targets))


def page(*outcomes: Outcome, skipped: Sequence[str] = ()) -> str:
    """Return the page for some outcomes."""
    about = (("processor", "P"),), (("Python", "3.11"),), (("this service", "a description"),)
    return markdown(Report("1 May 2026", "quick run", "Pinned", *about, tuple(skipped), outcomes))


def test_median() -> None:
    assert row("a", 3, 1, 2).median(RATE) == 2
    assert row("a", 1, 2).median(RATE) == 1.5
    assert row("a", None, 5).median(RATE) == 5
    assert row("a", None).median(RATE) is None
    assert row("a").median(RATE) is None


def test_ratio_and_factor() -> None:
    fast = outcome(row("service", 30, 10, 20), row("peer", 5), row("idle", 0), row("gone"))
    ratios = [fast.ratio(each, RATE) for each in fast.rows]
    assert ratios == [1, 4, None, None]
    assert [fast.factor(each) for each in fast.rows] == ratios
    slow = outcome(row("service", 2, metric=DELAY), row("peer", 8, metric=DELAY), metric=DELAY)
    assert slow.ratio(slow.rows[1], DELAY) == 0.25
    assert slow.factor(slow.rows[1]) == 4


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target(RATE, at_least=4, beside="peer"), 4, True),
        (Target(RATE, at_least=4.1, beside="peer"), 4, False),
        (Target(RATE, at_most=4, beside="peer"), 4, True),
        (Target(RATE, at_most=3.9, beside="peer"), 4, False),
        (Target(RATE, at_least=20), 20, True),
        (Target(RATE, at_most=19), 20, False),
        (Target(RATE, at_least=1, beside="gone"), None, False),
    ],
)
def test_a_target_is_met_or_not(target: Target, value: float | None, met: bool) -> None:
    rows = row("service", 20), row("peer", 5), row("gone")
    reached = outcome(*rows).reached(target)
    assert reached == value
    assert reached is None or target.met(reached) == met


def test_a_target_for_all_rows_is_as_good_as_the_worst() -> None:
    rows = outcome(row("alone", 10), row("beside", 90), row("gone"))
    assert rows.reached(Target(RATE, at_most=50, by_all=True)) == 90
    assert rows.reached(Target(RATE, at_least=50, by_all=True)) == 10
    assert rows.reached(Target(RATE, at_most=50)) == 10
    assert outcome(row("gone")).reached(Target(RATE, at_most=50, by_all=True)) is None


def test_the_text_has_aligned_columns_and_targets() -> None:
    rows = row("service", 1_000_000, 3_000_000, title="this service"), row("peer", 250_000)
    targets = Target(RATE, at_least=12, beside="peer"), Target(RATE, at_least=1000)
    assert text(outcome(*rows, targets=targets)).splitlines() == [
        "Fan-out",
        "  server        deliveries/s                   range  factor",
        "  this service     2,000,000  1,000,000 to 3,000,000",
        "  peer               250,000                       –   8.00×",
        "  target: at least 12 × peer; 8.00×; not met",
        "  target: at least 1000 deliveries/s; 2,000,000; met",
    ]


def test_errors_are_reported() -> None:
    samples = (
        Sample({RATE: 1}, "3 missing", busy=0.9, foreign=0.3),
        Sample({RATE: 1}, "3 missing", busy=0.2, foreign=0.01),
    )
    told = text(outcome(row("service"), Row("peer", "peer", samples), Row("x", "x", (), "no Node")))
    assert "service             –       –          not measured" in told
    assert (
        "3 missing; other processes used up to 30% of the core in 1 of 2 rounds; "
        "the load generator was 90% busy and may have been the bottleneck"
    ) in told
    assert told.endswith("no Node")


def test_markdown() -> None:
    rows = row("service", 10), row("peer", 5, 2, 3, title="a | b <c>")
    target = Target(RATE, at_least=2, beside="peer")
    markup = page(outcome(*rows, targets=[target]), skipped=["Node ws: no Node"])
    tokens = MarkdownIt().enable("table").parse(markup)
    cells = [
        tokens[at + 1].content
        for at, token in enumerate(tokens)
        if token.type in {"th_open", "td_open"}
    ]
    assert cells[:8] == ["server", "deliveries/s", "range", "factor", "service", "10", "–", ""]
    assert cells[8:12] == ["a | b &lt;c>", "3", "2 to 5", "3.33×"]
    assert cells[12:20] == [
        *("scenario", "target", "reached", "verdict"),
        *("Fan-out", "at least 2 × a | b &lt;c>", "3.33×", "met"),
    ]
    assert "Not measured: Node ws: no Node." in markup
    assert "- Pinned.\n" in markup
    assert "medians of 1 to 3 rounds" in markup
    assert "(prefers-color-scheme: dark)" in markup
    assert "\n\n\n" not in markup
    assert markup.endswith("\n")


def texts(picture: str) -> list[str]:
    """Return the texts in a picture."""
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_plot_has_bars_and_shortened_names() -> None:
    long = "a server with <a name> & more words than fit"
    rows = row("service", 2_000_000), row("peer", 150_000, title=long), row("gone")
    picture = svg([outcome(*rows)], LIGHT)
    assert texts(picture)[2:] == [
        *("Fan-out", "deliveries/s, more is better"),
        *("service", "2.00 M"),
        *("a server with <a name>…", "150 k", "13.3×"),
        *("gone", "not measured"),
    ]
    bars = re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)"', picture)
    assert [float(width) for width in bars] == [146, pytest.approx(146 * 0.075, abs=0.1)]


def test_a_plot_says_that_less_is_better() -> None:
    rows = row("service", 0.5, metric=DELAY), row("peer", 2, metric=DELAY)
    picture = svg([outcome(*rows, metric=DELAY)], LIGHT)
    assert texts(picture)[3:] == [
        "p99, ms, less is better",
        "service",
        "0.50",
        "peer",
        "2.00",
        "4.00×",
    ]


def test_a_plot_leaves_out_hidden_scenarios_and_says_what_is_not_measured() -> None:
    hidden = replace(outcome(row("service", 1)), plotted=False)
    assert len(texts(svg([hidden], DARK))) == 2
    assert "not measured" in svg([outcome(row("service"))], DARK)
    assert texts(svg([outcome(row("service", 0))], DARK))[-1] == "0"


def test_both_colour_schemes() -> None:
    pictures = dict(plots([outcome(row("service", 1))]))
    light, dark = pictures["benchmarks-light.svg"], pictures["benchmarks-dark.svg"]
    assert texts(light) == texts(dark)
    assert LIGHT.background in light
    assert LIGHT.background not in dark
    assert DARK.background in dark


def test_numbers_are_rounded() -> None:
    assert rounded(1_234_567, RATE) == "1.23 M"
    assert rounded(999_400, RATE) == "999 k"
    assert rounded(9_999, RATE) == "9,999"
    assert rounded(0.123, DELAY) == "0.12"
    assert (times(10.04), times(9.999), times(0.5), times(None)) == (
        "10.0×",
        "10.00×",
        "0.50×",
        "–",
    )
    assert shortened("short", 100) == "short"


def test_arguments() -> None:
    assert parse([]).only == list(SCENARIOS)
    assert not parse([]).full
    assert parse(["--full"]).full
    assert not parse(["--full"]).publish
    assert parse(["--full", "--publish"]).publish
    assert [each.name for each in parse(["--only", "echo, fanout"]).only] == ["fanout", "echo"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--only", "fanout,tea"],
            "error: argument --only: unknown scenario 'tea'; choose from",
        ),
        (["--only", ""], "error: argument --only: unknown scenario ''; choose from fanout,"),
        (["--only"], "error: argument --only: expected one argument"),
        (["--fast"], "error: unrecognized arguments: --fast"),
        (["echo"], "error: unrecognized arguments: echo"),
    ],
)
def test_a_bad_argument_is_reported_in_one_line(arguments: list[str], complaint: str) -> None:
    done = run([sys.executable, "-m", "benchmarks", *arguments], TEMPLATE)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_every_target_names_a_server_of_its_scenario() -> None:
    for scenario in SCENARIOS:
        subjects = [subject.name for subject in (*scenario.subjects, *scenario.only_full)]
        assert len(set(subjects)) == len(subjects)
        assert scenario.targets
        for target in scenario.targets:
            assert target.metric in scenario.metrics
            assert target.beside in {None, *subjects[1:]}


@needs_compiler
def test_a_program_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "CACHE", tmp_path / "cache")
    source = tmp_path / "answer.c"
    source.write_text("int main(void) { return 42; }\n", encoding="utf-8")
    first = compiler.compiled(source)
    assert subprocess.run([first], check=False).returncode == 42
    made = first.stat().st_mtime_ns
    assert compiler.compiled(source).stat().st_mtime_ns == made
    source.write_text("int main(void) { return 43; }\n", encoding="utf-8")
    assert subprocess.run([compiler.compiled(source)], check=False).returncode == 43


@needs_compiler
def test_a_compilation_error_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "CACHE", tmp_path / "cache")
    source = tmp_path / "broken.c"
    source.write_text("int main(void) {\n", encoding="utf-8")
    with pytest.raises(Unavailable, match=r"cannot compile broken[.]c:\n"):
        compiler.compiled(source)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_compiler_ziglang_is_used_if_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "a-compiler-that-is-not-there -O3")
    monkeypatch.setattr(compiler, "lock_python", lambda lock: Path(f"/python of {lock.name}"))
    compiler.compiler.cache_clear()
    try:
        with pytest.raises(Unavailable, match="install gcc or clang"):
            compiler.compiler(install=False)
        python = "/python of requirements-bench.lock"
        assert compiler.compiler() == (python, "-m", "ziglang", "cc")
    finally:
        compiler.compiler.cache_clear()


def test_without_node_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(Unavailable, match=r"there is no node on PATH; install Node.js"):
        environment.node_package("node_ws")


def test_a_token_is_well_formed() -> None:
    scheme, _, token = authorization(7)["Authorization"].partition(" ")
    assert scheme == "Bearer"
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]{43}", token)
    assert authorization(8)["Authorization"] != f"Bearer {token}"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.progress.time.monotonic", lambda: 0.0)


@pytest.mark.usefixtures("_no_time_passes")
def test_progress_on_a_terminal_is_one_line() -> None:
    terminal = Terminal()
    progress = Progress(12, terminal)
    progress.begin("echo")
    progress.end("echo: 5 round trips/s")
    progress.clear()
    shown = terminal.getvalue().split("\r\x1b[K")
    assert shown == ["", "[ 1/12, 0:00] echo", "[ 1/12, 0:00] echo: 5 round trips/s", ""]


@pytest.mark.usefixtures("_no_time_passes")
def test_progress_elsewhere_is_one_line_per_measurement() -> None:
    stream = io.StringIO()
    progress = Progress(2, stream)
    for name in ("a", "b"):
        progress.begin(name)
        progress.end(f"{name}: 1")
    progress.clear()
    assert stream.getvalue() == "[1/2, 0:00] a: 1\n[2/2, 0:00] b: 1\n"


def server(name: str, script: str) -> Server:
    """Return a server that is a Python script."""
    command = (sys.executable, "-c", script)
    return Server(name, name, "", lambda: Program(command, TEMPLATE, clean_environment()))


LISTEN = """
import socket
with socket.create_server(("127.0.0.1", 0)) as listener:
    while True:
        listener.accept()
"""


def scenario(
    measure: Callable[[Trial], Sample],
    *servers: Server,
    rounds: int = 1,
    targets: tuple[Target, ...] = (),
    fresh: bool = False,
) -> Scenario:
    """Return a scenario of these servers."""
    subjects = tuple(Subject(each, each.name, each.title) for each in servers)
    return Scenario(
        *("s", "S", "", (RATE,), measure, subjects, targets),
        rounds=(rounds, rounds),
        fresh=fresh,
    )


def bench(scenario: Scenario) -> Bench:
    """Return a bench for a scenario, without progress output."""
    bench = Bench([scenario], QUICK, Cores())
    bench.progress = Progress(0, io.StringIO())
    return bench


def test_rounds_are_interleaved_and_every_other_is_reversed() -> None:
    order = []

    def measure(trial: Trial) -> Sample:
        order.append(trial.subject.name)
        return Sample({RATE: len(order)})

    three = scenario(measure, server("a", LISTEN), server("b", LISTEN), rounds=3)
    rows = bench(three).run(three).rows
    assert "".join(order) == "abbaab"
    assert [each.values(RATE) for each in rows] == [[1, 4, 5], [2, 3, 6]]


def test_a_disturbed_measurement_is_repeated() -> None:
    foreign = iter([0.5, 0.2, 0.3])
    always = scenario(lambda trial: Sample({RATE: 1}, foreign=next(foreign)), server("a", LISTEN))
    [found] = bench(always).run(always).rows
    assert [sample.foreign for sample in found.samples] == [0.2]
    assert list(foreign) == []


def test_an_undisturbed_measurement_is_not_repeated() -> None:
    foreign = iter([0.01, 0.5])
    once = scenario(lambda trial: Sample({RATE: 1}, foreign=next(foreign)), server("a", LISTEN))
    bench(once).run(once)
    assert list(foreign) == [0.5]


def test_failing_servers_are_reported_and_skipped() -> None:
    measured = []

    def measure(trial: Trial) -> Sample:
        measured.append(trial.subject.name)
        if trial.subject.name == "fails":
            message = "3 of 9 connect: timed out"
            raise Failed(message)
        return Sample({RATE: 1})

    def unavailable() -> Program:
        message = "there is no node"
        raise Unavailable(message)

    dying = scenario(
        measure,
        server("works", LISTEN),
        server("dies", "print('before', flush=True); raise SystemExit('no more')"),
        server("fails", LISTEN),
        Server("lacks", "lacks", "", unavailable),
        rounds=2,
    )
    rows = bench(dying).run(dying).rows
    assert [each.missing for each in rows] == [
        "",
        "failed: does not start: no more",
        "failed: 3 of 9 connect: timed out",
        "failed: there is no node",
    ]
    assert measured == ["works", "fails", "works"]


def test_targets_of_absent_servers_are_dropped() -> None:
    targets = Target(RATE, at_least=1, beside="only in the full run"), Target(RATE, at_least=2)
    alone = scenario(lambda trial: Sample({RATE: 1}), server("a", LISTEN), targets=targets)
    assert bench(alone).run(alone).targets == targets[1:]


@pytest.mark.parametrize(("fresh", "processes"), [(True, 2), (False, 1)])
def test_fresh_scenarios_start_new_processes(fresh: bool, processes: int) -> None:
    pids = []

    def measure(trial: Trial) -> Sample:
        pids.extend(trial.running.pids)
        return Sample({RATE: 1})

    twice = scenario(measure, server("a", LISTEN), rounds=2, fresh=fresh)
    bench(twice).run(twice)
    assert len(set(pids)) == processes


@pytest.mark.parametrize("arguments", [[], ["--full", "--only", "echo"], ["--only", "echo"]])
def test_only_a_full_run_can_be_published(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^error: --publish needs --full and every scenario$"):
        parse([*arguments, "--publish"])


@pytest.mark.parametrize(
    ("arguments", "directory"),
    [([], ".bench"), (["--full"], ".bench"), (["--full", "--publish"], "docs")],
    ids=str,
)
def test_only_publish_writes_the_committed_page(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    directory: str,
) -> None:
    monkeypatch.setattr(__main__, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(__main__, "UNPUBLISHED", tmp_path / ".bench")
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(__main__, "compiled", lambda *command: None)
    monkeypatch.setattr(Bench, "prepare", lambda bench: None)
    monkeypatch.setattr(Bench, "run", lambda bench, scenario: outcome(row("a", 1)))
    monkeypatch.setattr(__main__, "versions", lambda servers: {"Python": "3"})
    for name in ("signal", "resource"):
        monkeypatch.setattr(__main__, name, MagicMock())
    __main__.main()
    assert [path.name for path in tmp_path.iterdir()] == [directory]
    assert f"wrote {directory}/benchmarks.md and its plots\n" in capsys.readouterr().out
    text = (tmp_path / directory / "benchmarks.md").read_text(encoding="utf-8")
    assert "![" in text or "<img" in text


def test_servers_are_stopped() -> None:
    pids = []

    def measure(trial: Trial) -> Sample:
        pids.extend(trial.running.pids)
        return Sample({RATE: 1})

    stopped = scenario(measure, server("a", LISTEN))
    bench(stopped).run(stopped)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_the_full_run_has_more_servers_and_rounds() -> None:
    assert len(Bench(SCENARIOS, FULL, Cores()).servers) > len(
        Bench(SCENARIOS, QUICK, Cores()).servers
    )


def test_one_core_is_not_enough_for_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    assert processes.choose_cores() == Cores(reason="there is only one core")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert processes.choose_cores() == Cores(reason="this system cannot pin processes to cores")


def test_cores_are_on_different_physical_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    monkeypatch.setattr(processes, "_siblings", lambda core: {2, 3})
    assert processes.choose_cores() == Cores(2, 4)
    monkeypatch.setattr(processes, "_siblings", lambda core: {2, 3, 4, 5})
    assert processes.choose_cores() == Cores(2, 3)


def test_the_port_belongs_to_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert listening_port(os.getpid()) is None
        listener.listen()
        assert listening_port(os.getpid()) == listener.getsockname()[1]
        assert listening_port(os.getppid()) != listener.getsockname()[1]
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert listening_port(os.getpid()) is None


def test_memory_is_measured() -> None:
    me = [os.getpid()]
    before = memory_bytes(me) or 0
    block = bytearray(b"x" * 50_000_000)
    assert (memory_bytes(me) or 0) - before >= 40_000_000
    del block
    assert (memory_bytes(me, peak=True) or 0) - before >= 40_000_000
    forget_peak(me)
    assert (memory_bytes(me, peak=True) or 0) - before < 40_000_000


def test_cpu_time_is_measured() -> None:
    meter = Meter([os.getpid()], core=None)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    spent = meter.read()
    assert (spent.cpu_s or 0) >= 0.19
    assert spent.foreign is None


def test_without_proc_values_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert memory_bytes([os.getpid()]) is None
    spent = Meter([os.getpid()], core=0).read()
    assert (spent.cpu_s, spent.foreign) == (None, None)


def test_scenarios_match_the_options_of_the_project(
    baked: Baker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "project", None)
    project = baked(find("jwt-redis")).root
    asked = {each.name for each in __main__.chosen_project(project, list(SCENARIOS))}
    assert environment.project == project
    assert "redis" in asked
    assert not asked & {"room", "fairness", "redis-room", "redis-busy-1000", "ephemeral", "joins"}
    answers: Answers = {"auth": "jwt", "rooms": True, "redis": False}
    skipped = {each.name for each in SCENARIOS if not fits(each, answers)}
    assert skipped == {each.name for each in SCENARIOS if each.redis}


def test_a_project_with_other_credentials_is_refused(baked: Baker) -> None:
    with pytest.raises(Unavailable, match=r"has ticket$"):
        __main__.chosen_project(baked(find("ticket")).root, list(SCENARIOS))


def test_a_given_project_is_not_published() -> None:
    with pytest.raises(SystemExit, match="--publish cannot be combined with --project"):
        parse(["--full", "--publish", "--project", "../my-service"])


def test_a_given_project_is_copied(
    baked: Baker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = baked(find("jwt")).copy(tmp_path / "my-service")
    project.write(".env", "PORT=1\n")
    monkeypatch.setattr(environment, "CACHE", tmp_path)
    monkeypatch.setattr(environment, "project", project.root)
    environment.service.cache_clear()
    try:
        copy = environment.service()
        assert (copy / "app" / "realtime").is_dir()
        assert not (copy / ".env").exists()
    finally:
        environment.service.cache_clear()
