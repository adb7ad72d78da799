"""Routes of another app that mounts the service."""

import httpx
import pytest
from fastapi import FastAPI

from app.realtime import get_service

from ..engine import make_app
from ..live import make_settings


async def test_a_route_without_the_service_is_told_what_to_do() -> None:
    outer = FastAPI()
    outer.mount("/realtime", make_app(make_settings()))
    outer.add_api_route("/own", get_service, response_model=None)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(outer), base_url="http://localhost"
    ) as client:
        with pytest.raises(RuntimeError, match="set its state"):
            await client.get("/own")
