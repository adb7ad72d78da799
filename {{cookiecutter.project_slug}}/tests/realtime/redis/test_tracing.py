"""A delivery on another node belongs to the trace of the command that has caused it."""

import pytest

from ..live import run_service, wait_until
from ..test_tracing import Spans, spans
from .test_backplane import settings_for
from .valkey import Valkey

__all__ = ["spans"]

SENDING = [
    {"type": "send", "to": "bob", "data": 1},
    # {% if cookiecutter.rooms %}
    {"type": "publish", "room": "lobby", "data": 1},
    {"type": "publish", "room": "lobby", "data": 1, "keep": False},
    # {% endif %}
]


@pytest.mark.parametrize("command", SENDING, ids=str)
async def test_a_delivery_on_another_node_belongs_to_the_trace(
    empty_valkey: Valkey, spans: Spans, command: dict[str, object]
) -> None:
    settings = settings_for(empty_valkey)
    async with run_service(settings) as here, run_service(settings) as there:
        await wait_until(lambda: here.service.backplane.healthy and there.service.backplane.healthy)
        alice, bob = await here.connect("alice"), await there.connect("bob")
        command = {**command, **({"to": bob.user} if "to" in command else {})}
        # {% if cookiecutter.rooms %}
        for client in (alice, bob):
            await client.ask(type="join", room="lobby")
        # {% endif %}
        await alice.ask(**command)
        await bob.receive("message")
        await wait_until(lambda: {"deliver", command["type"]} <= spans().keys())
        cause, delivery = spans()[str(command["type"])], spans()["deliver"]
        assert cause.context is not None
        assert delivery.parent is not None
        assert delivery.parent.span_id == cause.context.span_id
        assert delivery.parent.trace_id == cause.context.trace_id
        assert dict(delivery.attributes or {}).keys() == {"ws.channel"}
