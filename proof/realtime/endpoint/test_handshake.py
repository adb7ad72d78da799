"""What an authenticator finds in a handshake, and what a connection keeps of it."""

import weakref

import pytest
from starlette.requests import HTTPConnection

from app.realtime.auth.identity import Identity

from ..live import Live


async def test_what_the_authenticator_has_parsed_is_freed(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    handshakes: list[weakref.ref[HTTPConnection]] = []
    authenticator = live.service.authenticator
    authenticate = authenticator.authenticate

    async def note(handshake: HTTPConnection) -> Identity:
        handshakes.append(weakref.ref(handshake))
        return await authenticate(handshake)

    monkeypatch.setattr(authenticator, "authenticate", note)
    await live.connect()
    assert [handshake() for handshake in handshakes] == [None]


async def test_an_authenticator_finds_the_app_and_its_root_path(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[object] = []
    monkeypatch.setattr(live.server.config.app, "root_path", "/api")
    authenticator = live.service.authenticator
    authenticate = authenticator.authenticate

    async def note(handshake: HTTPConnection) -> Identity:
        apps.extend([handshake.app, handshake.scope["root_path"]])
        return await authenticate(handshake)

    monkeypatch.setattr(authenticator, "authenticate", note)
    await live.connect()
    assert apps == [live.server.config.app, "/api"]
