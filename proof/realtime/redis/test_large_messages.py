"""Messages that are too large are refused before they are published."""

from ..connections.test_large_messages import check_refusals
from ..live import run_service
from .test_backplane import settings_for
from .valkey import Valkey


async def test_a_large_message_is_not_published(shared_valkey: Valkey) -> None:
    async with run_service(settings_for(shared_valkey)) as live:
        await check_refusals(live)
