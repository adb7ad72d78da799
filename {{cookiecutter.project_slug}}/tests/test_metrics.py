"""What Prometheus gets to read, and who may read it."""

from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .live import Live, make_settings, run_service, wait_until

KEY = "a-key-for-the-monitoring-" * 2


@pytest.fixture
async def watched() -> AsyncIterator[Live]:
    """Run a service that may be read."""
    async with run_service(make_settings(metrics_key=KEY, max_connections=1)) as live:
        yield live


async def read(live: Live) -> dict[str, float]:
    """Return all samples by name, with the label's value where there is one."""
    async with live.http() as http:
        answer = await http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == live.service.metrics.content_type
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            samples[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return samples


async def test_lives_of_connections_are_counted(watched: Live) -> None:
    before = await read(watched)
    assert before["ws_connections"] == 0
    client = await watched.connect()
    refused = await watched.options("bob")
    async with watched.http() as http:
        url = refused.uri.replace("ws:", "http:")
        answer = await http.get(url, headers={**refused.headers, **UPGRADE})
    assert answer.status_code == 503
    during = await read(watched)
    assert during["ws_connections"] == 1
    assert during["ws_connections_opened_total"] == 1
    assert during["ws_handshakes_refused_total 503"] == 1
    await client.close()
    await wait_until(lambda: len(watched.service.manager) == 0)
    after = await read(watched)
    assert after["ws_connections"] == 0
    assert after["ws_connections_closed_total 1000"] == 1


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


async def test_commands_and_their_errors_are_counted(watched: Live) -> None:
    client = await watched.connect()
    await client.ask(type="ping")
    await client.ask(type="nonsense")
    await client.send_text("[]")
    await client.receive("error")
    samples = await read(watched)
    assert samples["ws_commands_total"] == 3
    assert samples["ws_command_errors_total unknown_type"] == 1
    assert samples["ws_command_errors_total bad_request"] == 1


async def test_the_process_is_measured(watched: Live) -> None:
    samples = await read(watched)
    assert samples["process_resident_memory_bytes"] > 0


async def test_only_monitoring_may_read(live: Live, watched: Live) -> None:
    assert (await live.get("/metrics")).status_code == 404
    assert (await watched.get("/metrics")).status_code == 401
    backend_key = watched.settings.backend_key
    if backend_key is not None:
        async with watched.http() as http:
            key = {"Authorization": f"Bearer {backend_key.get_secret_value()}"}
            assert (await http.get("/metrics", headers=key)).status_code == 401
