"""The private parts of redis-py that the engine uses exist.

If one is missing after an upgrade, restore the old upper bound in `pyproject.toml` until the engine
has been adapted and ``make prove`` of the template passes.
"""

import inspect

import pytest
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

MISSING = "has changed; see the top of this file"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("on_connect_check_health", {"check_health"}),
        ("send_packed_command", {"command", "check_health"}),
        ("send_command", {"kwargs"}),
        ("can_read", set()),
        ("read_response", set()),
        ("disconnect", {"nowait"}),
    ],
)
def test_a_connection_has_the_methods_that_the_engine_uses(name: str, parameters: set[str]) -> None:
    method = getattr(AbstractConnection, name, None)
    assert inspect.iscoroutinefunction(method), f"AbstractConnection.{name} {MISSING}"
    assert parameters <= set(inspect.signature(method).parameters), f"{name} {MISSING}"


@pytest.mark.parametrize(
    "kind",
    [
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
        SentinelManagedConnection,
        SentinelManagedSSLConnection,
    ],
)
def test_no_kind_of_connection_overrides_what_the_engine_does(kind: type) -> None:
    assert issubclass(kind, AbstractConnection)
    assert {"pack_command", "send_packed_command"}.isdisjoint(vars(kind))
    assert isinstance(AbstractConnection.is_connected, property)
