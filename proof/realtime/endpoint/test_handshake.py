"""What a connection keeps of its handshake."""

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
