"""The composition: work in the background that must not end."""

import signal

import pytest

from app.errors import Misconfigured
from app.main import keep


async def test_failed_background_work_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)

    async def fail() -> None:
        raise RuntimeError

    async def end() -> None:
        pass

    await keep(end())
    assert raised == []
    await keep(fail())
    assert raised == [signal.SIGTERM]

    async def refuse() -> None:
        raise Misconfigured

    await keep(refuse())
    assert raised == [signal.SIGTERM, signal.SIGTERM]
