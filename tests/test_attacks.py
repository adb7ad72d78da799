"""Each attack of the benchmark does what its name says."""

import http.client
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks import attacks
from benchmarks.attacks import Attack
from benchmarks.hostile import AMPLIFICATION, beside_hostile_clients
from benchmarks.measurements import QUICK, Subject, Trial
from benchmarks.processes import Failed
from benchmarks.results import Sample
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import JWT_SECRET, THIS_LIMITED, Running

from .checks.service import Service, running
from .combination import DEFAULT
from .conftest import Baker

HONEST = 5
DEADLINE_S = 180.0

COMMANDS = 'commands_total{type="%s"}'
TO_ROOMS = 'frames_sent_total{to="group"}'

COUNTED: dict[Attack, dict[str, int]] = {
    attacks.PINGS: {COMMANDS % "ping": 2_000},
    attacks.FRAGMENTATION: {COMMANDS % "ping": 100},
    attacks.SURPLUS_KEYS: {'command_errors_total{code="bad_request"}': 20},
    attacks.NUMBERS: {COMMANDS % "publish": 100},
    attacks.BRACKETS: {COMMANDS % "publish": 20},
    attacks.NESTED: {COMMANDS % "publish": 20},
    attacks.UNREAD: {TO_ROOMS: 1_000},
    attacks.REPLAYS: {"messages_replayed_total": 1_000},
    attacks.PRESENCE: {COMMANDS % "presence": 1_000},
    attacks.STORM: {'joins_total{recovered="none"}': 1_000, TO_ROOMS: 1_000 * HONEST},
    attacks.VICTIM: {COMMANDS % "send": 100},
    attacks.IN_ROOMS: {TO_ROOMS: 1_000 * HONEST},
    attacks.SLOW_VICTIM: {TO_ROOMS: 2_000},
    attacks.FLOODS: {
        'connections_closed_total{by="server",code="4013"}': attacks.FLOODS.connections,
        "connections_opened_total": HONEST + attacks.FLOODS.connections + 1,
    },
    attacks.HANDSHAKES: {
        "connections_opened_total": HONEST + 100,
        "handshakes_refused_total{.*429.*}": 1,
    },
    attacks.BAD_HANDSHAKES: {'connections_rejected_total{code="4500"}': 100},
    attacks.HALF_HANDSHAKES: {'requests_refused_total{status="408"}': 100},
    attacks.IDLE: {'requests_refused_total{status="429"}': 100},
}
"""What the service counts, at least."""

SETTINGS = {attacks.HALF_HANDSHAKES: {"HANDSHAKE_TIMEOUT_S": "0.5"}}
"""A time-out that the others would reach on a busy machine."""

pytestmark = pytest.mark.usefixtures("compiled_load")


def attacked(service: Service, attack: Attack) -> Sample:
    """Measure a service beside an attack."""
    here = Running(None, [int(service.port)], [service.pid])
    subject = Subject(THIS_LIMITED, attack.name, attack.title, attack=attack)
    return beside_hostile_clients(HONEST)(Trial(here, subject, replace(QUICK, latency_s=1), None))


def counted(service: Service, metric: str) -> int:
    """Return the sum of the metrics that match a pattern."""
    connection = http.client.HTTPConnection("127.0.0.1", int(service.port), timeout=30)
    connection.request(
        "GET", "/metrics", headers={"Authorization": f"Bearer {service.metrics_key}"}
    )
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(
        int(float(value)) for value in re.findall(rf"^ws_{metric} (.+)$", text, re.MULTILINE)
    )


def check_attack(service: Service, attack: Attack, check: Callable[[Sample], None]) -> None:
    """Attack, and check the effect; attack again if a busy machine has prevented it."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return check(attacked(service, attack))
        except (AssertionError, Failed):
            if time.monotonic() > deadline:
                raise


@pytest.mark.parametrize("attack", COUNTED, ids=lambda attack: attack.name)
def test_the_service_counts_what_an_attack_does(baked: Baker, attack: Attack) -> None:
    def check(sample: Sample) -> None:
        assert "missing" not in sample.remark
        for metric, least in COUNTED[attack].items():
            assert counted(service, metric) >= least, metric

    settings = SETTINGS.get(attack, {})
    with running(baked(DEFAULT), JWT_SECRET=JWT_SECRET, **settings) as service:
        check_attack(service, attack, check)


def test_control_frames_are_answered(baked: Baker) -> None:
    answered: list[float] = []

    def check(sample: Sample) -> None:
        answered.append(sample.values[AMPLIFICATION] or 0)
        assert answered[-1] == pytest.approx(35 / 39, abs=0.01)  # only clients mask: 4 of 39 bytes

    with running(baked(DEFAULT), JWT_SECRET=JWT_SECRET) as service:
        check_attack(service, attacks.CONTROL_FRAMES, check)
    assert max(answered) < 1


def test_every_attack_is_tested() -> None:
    measured = {each.attack.name for scenario in SCENARIOS for each in scenario.subjects}
    tested = {attack.name for attack in COUNTED}
    assert measured - tested == {attacks.ALONE.name, attacks.CONTROL_FRAMES.name}
    assert tested <= measured


def test_an_address_has_all_its_connections_and_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)  # tokens of a user differ by the second
    attack = attacks.of_address(attacks.PINGS)
    users = {attack.headers(number)["Authorization"] for number in range(attack.connections)}
    assert (attack.connections, len(users)) == (500, 25)


def envelope(attack: Attack) -> str:
    """Return the text of the attack's message."""
    text = attack.dialect.envelope
    assert isinstance(text, str)
    return text.replace("{data}", '"id"')


def test_numbers_grow_when_they_are_passed_on() -> None:
    text = envelope(attacks.NUMBERS)
    assert len(json.dumps(json.loads(text)["data"])) > 3 * len(text)


def test_brackets_are_in_a_large_message_and_nested_arrays_in_a_small_one() -> None:
    """Only in a message of more than 1 KiB, each bracket has a price of its own."""
    assert len(envelope(attacks.BRACKETS)) > 1_024 > len(envelope(attacks.NESTED)) > 900


def test_a_message_in_fragments_is_a_ping() -> None:
    frames = attacks.FRAGMENTATION.dialect.envelope
    assert isinstance(frames, bytes)
    opcodes, payload = [], b""
    while frames:
        size = frames[1] & 0x7F
        opcodes.append(frames[0])
        payload += frames[6 : 6 + size]
        frames = frames[6 + size :]
    assert opcodes == [0x01, *[0x00] * (len(opcodes) - 2), 0x80]
    assert len(opcodes) == attacks.FRAGMENTS > 10
    assert json.loads(payload)["type"] == "ping"
