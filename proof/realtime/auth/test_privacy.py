"""The service logs no token, wherever the client sent it."""

import json
from dataclasses import replace
from pathlib import Path

from ..test_privacy import PRIVATE, run_recorded


async def test_tokens_are_not_logged(tmp_path: Path) -> None:
    async with run_recorded(tmp_path, JWT_ALLOW_QUERY="true") as service:
        options = await service.options()
        token = options.headers["Authorization"].removeprefix("Bearer ")
        places = [
            replace(options, headers={}, subprotocols=["ws.v1", f"bearer.{token}"]),
            replace(options, headers={}, subprotocols=["ws.v1", f"bearer.{PRIVATE}"]),
            replace(options, headers={}, uri=f"{options.uri}?token={token}"),
            replace(options, headers={}, uri=f"{options.uri}?token={PRIVATE}"),
        ]
        for place in places:
            await service.attempt(place)
        for refreshed in (token, PRIVATE):
            await service.attempt(options, json.dumps({"type": "refresh", "token": refreshed}))
    assert service.printed.count("connection opened") == 4
    assert service.printed.count("connection rejected") == 2
