"""The ASGI application: FastAPI for requests, and a short way to the endpoint for WebSockets."""

from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from .endpoint import Endpoint

PATH = "/ws"


class Application(FastAPI):
    """FastAPI, whose middleware and routing the endpoint's connections do not pass through.

    Made for requests, they would cost each handshake a third of its time, and each connection
    several KiB for as long as it lives.
    """

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(**options)
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, a request, or the application's own start and end."""
        if scope["type"] == "websocket" and scope["path"] == PATH:
            await self._endpoint.serve(WebSocket(scope, receive, send))
        else:
            await super().__call__(scope, receive, send)
