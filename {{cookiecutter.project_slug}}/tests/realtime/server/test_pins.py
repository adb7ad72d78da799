"""The private parts of uvicorn and websockets that the engine uses exist.

If one is missing after an upgrade, restore the old upper bound in `pyproject.toml` until the engine
has been adapted and ``make prove`` of the template passes.
"""

import inspect
import re

import pytest
import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol
from websockets.utils import apply_mask

METHODS = {
    WebSocketsSansIOProtocol: (
        *("connection_lost", "data_received", "eof_received", "pause_writing", "shutdown"),
        *("handle_connect", "handle_events", "handle_ping", "handle_close"),
        *("handle_parser_exception", "keepalive_timeout", "on_task_complete", "send"),
        "send_receive_event_to_app",
    ),
    HttpToolsProtocol: (
        *("connection_made", "connection_lost", "data_received", "on_headers_complete"),
        *("on_message_complete", "handle_websocket_upgrade", "send_400_response"),
        *("_should_upgrade", "_unsupported_upgrade_warning"),
    ),
    uvicorn.Server: ("startup", "shutdown", "main_loop", "on_tick", "capture_signals"),
    ServerProtocol: ("data_to_send", "reject", "send_close"),
}
"""Methods that the engine overrides or calls."""

ATTRIBUTES = {
    WebSocketsSansIOProtocol: (
        *("close_sent", "close_timeout", "close_timer", "config", "conn", "disconnected"),
        *("handshake_complete", "handshake_initiated", "loop", "pong_timer", "queue"),
        *("read_paused", "response", "scope", "transport", "writable"),
    ),
    ProxyHeadersMiddleware: ("trusted_hosts",),
    HttpToolsProtocol: ("app", "client", "config", "headers", "loop", "parser", "transport", "url"),
    uvicorn.Server: ("config", "server_state", "should_exit", "started"),
    ServerProtocol: ("close_rcvd", "close_sent", "current_size", "parser", "parser_exc", "state"),
}
"""Attributes that the engine reads or sets."""

MISSING = "has changed; see the top of this file"


@pytest.mark.parametrize("owner", METHODS, ids=lambda owner: owner.__name__)
def test_the_methods_exist(owner: type) -> None:
    for name in METHODS[owner]:
        assert callable(getattr(owner, name, None)), f"{owner.__name__}.{name} {MISSING}"


@pytest.mark.parametrize("owner", ATTRIBUTES, ids=lambda owner: owner.__name__)
def test_the_attributes_exist(owner: type) -> None:
    classes = [each for each in owner.__mro__ if each is not object]
    source = "".join(inspect.getsource(each) for each in classes)
    for name in ATTRIBUTES[owner]:
        assert re.search(rf"\bself\.{name}\b", source), f"{owner.__name__}.{name} {MISSING}"


def test_the_functions_are_unchanged() -> None:
    assert STATUS_LINE[400] == b"HTTP/1.1 400 Bad Request\r\n"
    assert issubclass(ClientDisconnected, OSError)
    assert apply_mask(b"\x01\x02\x03\x04\x05", b"\x01\x01\x01\x01") == b"\x00\x03\x02\x05\x04"
