"""The composition: work in the background that must not end."""

from app.errors import Misconfigured
from app.main import keep


async def test_failed_background_work_is_told() -> None:
    told: list[None] = []

    def tell() -> None:
        told.append(None)

    async def end() -> None:
        pass

    async def fail() -> None:
        raise RuntimeError

    async def refuse() -> None:
        raise Misconfigured

    await keep(end(), tell)
    assert len(told) == 0
    await keep(fail(), tell)
    assert len(told) == 1
    await keep(refuse(), tell)
    assert len(told) == 2
