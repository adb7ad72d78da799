"""The allow-list accepts one `Origin`, exactly as listed."""

import pytest
from starlette.requests import HTTPConnection

from app.realtime.errors import Refused
from app.realtime.limits.origin import Origins
from dev.urls import base_url

from ..live import make_settings

LISTED = "https://example.com"
SETTINGS = make_settings(allowed_origins=(LISTED,))


def handshake(*origins: str, server: tuple[str, int] = ("127.0.0.1", 8000)) -> HTTPConnection:
    headers = [(b"origin", origin.encode()) for origin in origins]
    return HTTPConnection({"type": "websocket", "headers": headers, "server": server})


@pytest.mark.parametrize("origin", [LISTED, "HTTPS://Example.com"])
def test_a_listed_origin_passes(origin: str) -> None:
    Origins(SETTINGS, required=True).check(handshake(origin))


@pytest.mark.hostile(28)
@pytest.mark.parametrize(
    "origins", [("https://other.example",), (LISTED, LISTED), ("null",), ("",), (f"{LISTED}/",)]
)
def test_other_origins_are_refused(origins: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="origin"):
        Origins(SETTINGS).check(handshake(*origins))


@pytest.mark.parametrize(
    ("host", "server", "origin"),
    [
        ("127.0.0.1", ("127.0.0.1", 8000), "http://localhost:8000"),
        ("127.0.0.1", ("127.0.0.1", 80), "http://127.0.0.1"),
        ("::1", ("::1", 8000), "http://[::1]:8000"),
        ("127.0.0.2", ("127.0.0.2", 8000), "http://127.0.0.2:8000"),
        ("Box.test", ("10.0.0.5", 80), "http://box.test"),
        ("0.0.0.0", ("10.0.0.5", 8000), "http://10.0.0.5:8000"),  # noqa: S104
    ],
)
def test_the_service_s_own_pages_pass_in_development(
    host: str, server: tuple[str, int], origin: str
) -> None:
    in_development = Origins(make_settings(host=host, environment="development"))
    in_development.check(handshake(origin, server=server))
    other = handshake(origin.replace("http:", "https:"), server=server)
    with pytest.raises(Refused, match="origin"):
        in_development.check(other)
    with pytest.raises(Refused, match="origin"):
        Origins(make_settings(host=host)).check(handshake(origin, server=server))


def test_the_printed_url_is_the_origin_of_the_page() -> None:
    settings = make_settings(port=80, environment="development")
    Origins(settings).check(handshake(base_url(settings), server=(settings.host, 80)))


@pytest.mark.parametrize(
    "origin",
    ["capacitor://localhost", "tauri://localhost", "chrome-extension://" + 32 * "a", "app://a:1"],
)
def test_apps_and_extensions_have_origins_too(origin: str) -> None:
    Origins(make_settings(allowed_origins=origin)).check(handshake(origin))


def test_clients_without_an_origin_pass_unless_one_is_required() -> None:
    Origins(SETTINGS).check(handshake())
    with pytest.raises(Refused, match="origin"):
        Origins(SETTINGS, required=True).check(handshake())
