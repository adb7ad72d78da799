"""Prometheus reads the metrics, the rules and the dashboard's queries of a real run."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from websockets.exceptions import InvalidStatus

from .checks.service import Service, running
from .combination import DEFAULT, find
from .conftest import Baker
from .documents import tables
from .process import check_output, environment, run
from .project import Project
from .valkey import run_valkey
from .waiting import wait_until

DEADLINE_S = 180.0
LISTENING = re.compile(r'"Listening on" address=(\S+)\n')
VARIANTS = [DEFAULT, find("none")]

REFUSED = 'ws_handshakes_refused_total{job="JOB",reason="at capacity"}'
CROWDED = 'ws_handshakes_refused_total{job="JOB",reason="too many handshakes from this address"}'
OPENED = 'ws_connections_opened_total{job="JOB"}'
REJECTED = 'ws_connections_rejected_total{job="JOB",code="4500"}'
UNCHECKED = 'ws_connections_rejected_total{job="JOB",code="1013"}'
ERRORS, CRITICAL, WARNINGS = (
    f'ws_log_lines_total{{job="JOB",level="{level}"}}' for level in ("error", "critical", "warning")
)
SLOW = 'ws_connections_closed_total{job="JOB",by="server",code="4008"}'
CONNECTIONS = 'ws_connections{job="JOB"}'
IN_TIME, LATE, ALL = (
    f'ws_loop_lag_seconds_bucket{{job="JOB",le="{bound}"}}' for bound in ("0.1", "0.25", "+Inf")
)
FAST, SLOWER, EVERY = (
    f'ws_command_duration_seconds_bucket{{job="JOB",type="buy",le="{bound}"}}'
    for bound in ("1.0", "2.5", "+Inf")
)
BROKEN = 'ws_command_failures_total{job="JOB",type="buy"}'
PROMPT, TARDY, TRIPS = (
    f'ws_redis_publish_duration_seconds_bucket{{job="JOB",le="{bound}"}}'
    for bound in ("0.1", "0.25", "+Inf")
)
STARTED = 'process_start_time_seconds{job="JOB"}'
OPEN_FILES = 'process_open_fds{job="JOB"}'
MAX_FILES = 'process_max_fds{job="JOB"}'
RECOVERED = 'ws_joins_total{job="JOB",recovered="yes"}'
MISSED = 'ws_joins_total{job="JOB",recovered="no"}'
GAPS = 'ws_redis_gaps_total{job="JOB"}'
FAILURES = 'ws_redis_publish_failures_total{job="JOB"}'

SERIES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "InstanceDown": ({'up{job="JOB"}': "0x60"}, {'up{job="JOB"}': "1x60"}),
    "InstanceRestarts": ({STARTED: "0+0x50 1+1x8"}, {STARTED: "0x50 1x4 2x4"}),
    "ClientsRefused": ({REFUSED: "0+12x60"}, {REFUSED: "0+1x60"}),
    "AddressesRefused": (
        {CROWDED: "0+20x60", OPENED: "0+10x60"},
        {CROWDED: "0+5x60", OPENED: "0x60"},
    ),
    "CredentialsRefused": (
        {REJECTED: "0+20x60", OPENED: "0+10x60"},
        {REJECTED: "0+10x60", OPENED: "0+20x60"},
    ),
    "ErrorsLogged": (
        {ERRORS: "0+1x60", CRITICAL: "0x60"},
        {ERRORS: "5x60", CRITICAL: "5x60", WARNINGS: "0+1x60"},
    ),
    "CommandsSlow": (
        {FAST: "0+100x60", SLOWER: "0+120x60", EVERY: "0+120x60"},
        {FAST: "0+119x60", SLOWER: "0+120x60", EVERY: "0+120x60"},
    ),
    "CommandsFail": ({BROKEN: "0+12x60"}, {BROKEN: "0+1x60"}),
    "SlowConsumers": (
        {SLOW: "0+1x60", CONNECTIONS: "100x60"},
        {SLOW: "0+1x60", CONNECTIONS: "1000x60"},
    ),
    "EventLoopLate": (
        {IN_TIME: "0+100x60", LATE: "0+120x60", ALL: "0+120x60"},
        {IN_TIME: "0+120x60", LATE: "0+120x60", ALL: "0+120x60"},
    ),
    "FileDescriptorsScarce": (
        {OPEN_FILES: "600x60", MAX_FILES: "1024x60"},
        {OPEN_FILES: "10050x60", MAX_FILES: "11000x60"},  # MAX_CONNECTIONS=10000, all taken
    ),
    "HistoryTooShort": (
        {MISSED: "0+3x60", RECOVERED: "0+7x60"},
        {MISSED: "0+1x60", RECOVERED: "0+9x60"},
    ),
    "RedisLost": ({'ws_redis_up{job="JOB"}': "0x60"}, {'ws_redis_up{job="JOB"}': "1x60"}),
    "RedisSlow": (
        {PROMPT: "0+100x60", TARDY: "0+120x60", TRIPS: "0+120x60"},
        {PROMPT: "0+119x60", TARDY: "0+120x60", TRIPS: "0+120x60"},
    ),
    "MessagesLost": ({GAPS: "0x55 1x4", FAILURES: "0x60"}, {GAPS: "1x60", FAILURES: "7x60"}),
}
"""Series on which each alert must fire, and others on which it must not, with a value a minute."""

MORE_FIRING = [
    ("CredentialsRefused", {UNCHECKED: "0+20x60", OPENED: "0+10x60"}),
    ("ErrorsLogged", {ERRORS: "0x60", CRITICAL: "0x55 1x4"}),
]
"""Other series on which an alert must fire."""


def program(name: str) -> str:
    """Return the path of a program, or skip the test without it."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}: apt-get install prometheus")
    return path


@pytest.fixture(params=VARIANTS, ids=lambda combination: combination.id)
def project(request: pytest.FixtureRequest, baked: Baker) -> Project:
    """Return a project with every option, and one with none."""
    return baked(request.param)


def rules(project: Project) -> list[dict[str, Any]]:
    """Return the project's alerts."""
    (group,) = yaml.safe_load(project.read("deploy/prometheus/alerts.yaml"))["groups"]
    alerts: list[dict[str, Any]] = group["rules"]
    return alerts


def case(project: Project, alert: str, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """Return a test of Prometheus' own kind, of one alert on some series."""
    job = project.context["project_slug"]
    return {
        "interval": "1m",
        "input_series": [
            {"series": name.replace("JOB", job).replace("}", ',instance="a"}'), "values": values}
            for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": "58m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }


def test_each_alert_fires_when_it_must_and_only_then(project: Project, tmp_path: Path) -> None:
    alerts = [rule["alert"] for rule in rules(project)]
    file = tmp_path / "tests.yaml"
    content = {
        "rule_files": [str(project.root / "deploy/prometheus/alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            case(project, alert, series, fires=fires)
            for alert in alerts
            for fires, series in zip((True, False), SERIES[alert], strict=True)
        ]
        + [case(project, alert, series, fires=True) for alert, series in MORE_FIRING],
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    check_output([program("promtool"), "test", "rules", file], tmp_path)
    if project.combination == DEFAULT:
        assert set(alerts) == SERIES.keys()


def test_the_documents_say_what_to_do_for_each_alert(project: Project) -> None:
    listed = [row[0].strip("`") for row in tables(project, "docs/operating.md", "Alerts")]
    assert listed == [rule["alert"] for rule in rules(project)]


def test_the_configuration_and_the_rules_are_valid(project: Project, tmp_path: Path) -> None:
    check_output([program("promtool"), "check", "config", configure(project, tmp_path)], tmp_path)


def configure(project: Project, directory: Path, port: str = "8000", metrics_key: str = "") -> Path:
    """Copy the configuration, for a service on this port with this key; return its path."""
    key = directory / "metrics_key"
    key.write_text(metrics_key, encoding="utf-8")
    shutil.copy(project.root / "deploy/prometheus/alerts.yaml", directory)
    text = project.read("deploy/prometheus/prometheus.yaml")
    for old, new in {
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "/etc/prometheus/metrics_key": str(key),
        "scrape_interval: 15s": "scrape_interval: 1s",
    }.items():
        assert old in text
        text = text.replace(old, new)
    path = directory / "prometheus.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def has_started(log: str) -> bool:
    """Return whether Prometheus says, in either order, that it is ready and where it listens."""
    return "Server is ready to receive web requests" in log and bool(LISTENING.search(log))


@contextlib.contextmanager
def run_prometheus(config: Path) -> Iterator[str]:
    """Run Prometheus, and yield its address."""
    directory = config.parent
    command = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = directory / "prometheus.log"
    with (
        log.open("w") as file,
        subprocess.Popen(command, env=environment(), stdout=file, stderr=file) as process,
    ):
        try:
            wait_until(
                lambda: process.poll() is not None or has_started(log.read_text()),
                told=log.read_text,
            )
            assert process.poll() is None, log.read_text()
            [address] = LISTENING.findall(log.read_text())
            yield f"http://{address}"
        finally:
            process.terminate()


def ask(address: str, query: str) -> list[Any]:
    """Return the series that a query finds."""
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:  # noqa: S310 - it is http
        result: list[Any] = json.load(answer)["data"]["result"]
    return result


def queries(project: Project) -> list[str]:
    """Return the queries of the dashboard, for a Prometheus that scrapes each second."""
    panels = json.loads(project.read("deploy/grafana/dashboard.json"))["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [query.replace("$__rate_interval", "20s") for query in found]


def be_busy(service: Service) -> None:
    """Connect, send, make a mistake, and get refused."""
    with service.client("alice") as alice:
        alice.send(type="ping")
        alice.receive("pong")
        alice.send(type="nonsense")
        alice.receive("error")
    with pytest.raises(InvalidStatus):
        service.connection("alice", headers={"Origin": "https://evil.example"})


def test_prometheus_resolves_every_query(project: Project, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        more = {}
        if "redis" in project.combination.options:
            url = stack.enter_context(run_valkey(project))
            more = {"REDIS_URL": url, "REDIS_TIMEOUT_S": "20"}
        service = stack.enter_context(running(project, **more))
        config = configure(project, tmp_path, service.port, service.metrics_key)
        address = stack.enter_context(run_prometheus(config))
        alerts = project.read("deploy/prometheus/alerts.yaml")
        missing = set(queries(project)) | set(re.findall(r"ws_\w+(?={)", alerts))
        deadline = time.monotonic() + DEADLINE_S
        while missing:
            assert time.monotonic() < deadline, f"nothing found by {missing}"
            be_busy(service)
            missing = {query for query in missing if not ask(address, query)}


def test_the_metrics_follow_the_conventions(project: Project) -> None:
    with running(project) as service:
        be_busy(service)
        url = f"http://127.0.0.1:{service.port}/metrics"
        text = service.shell(
            f'. ./.env; curl --silent --fail -H "Authorization: Bearer $METRICS_KEY" {url}'
        )
    own = "\n".join(line for line in text.splitlines() if re.match(r"(# \w+ )?ws_", line)) + "\n"
    done = run([program("promtool"), "check", "metrics"], project.root, stdin=own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
