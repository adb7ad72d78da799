"""The log of HTTP requests: a line for each, with the template of its route, never its path."""

from time import monotonic

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..tracing import PROBES
from .routing import ROOT_PATH, template_of

REASON = "app.realtime.reason"
"""The key in a request's scope of why it is refused; not the client's text."""

log = structlog.stdlib.get_logger(__name__)


async def log_request(
    app: FastAPI, answer: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer a request to an application, and log it; probes only if they fail."""
    begin = monotonic()
    scope[ROOT_PATH] = app.root_path or scope.get("root_path", "")  # as FastAPI does
    status: int | None = None

    async def note_status(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        await send(message)

    try:
        await answer(scope, receive, note_status)
    finally:
        route = template_of(app, scope)
        if route not in PROBES or status is None or status >= 400:
            log.info(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round(1000 * (monotonic() - begin), 1),
                **({"reason": scope[REASON]} if REASON in scope else {}),
            )
