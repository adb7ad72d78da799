"""The allow-list accepts one `Origin`, exactly as listed."""

import pytest
from starlette.requests import HTTPConnection

from app.realtime.errors import Refused
from app.realtime.limits.origin import Origins

LISTED = "https://example.com"


def handshake(*origins: str) -> HTTPConnection:
    headers = [(b"origin", origin.encode()) for origin in origins]
    return HTTPConnection({"type": "websocket", "headers": headers})


@pytest.mark.parametrize("origin", [LISTED, "HTTPS://Example.com"])
def test_a_listed_origin_passes(origin: str) -> None:
    Origins((LISTED,), required=True).check(handshake(origin))


@pytest.mark.hostile(28)
@pytest.mark.parametrize(
    "origins", [("https://other.example",), (LISTED, LISTED), ("null",), ("",), (f"{LISTED}/",)]
)
def test_other_origins_are_refused(origins: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="origin"):
        Origins((LISTED,)).check(handshake(*origins))


def test_clients_without_an_origin_pass_unless_one_is_required() -> None:
    Origins((LISTED,)).check(handshake())
    with pytest.raises(Refused, match="origin"):
        Origins((LISTED,), required=True).check(handshake())
