"""The log of HTTP requests: a line for each, with the template of its route, never its path."""

from collections.abc import Iterator
from time import monotonic

import structlog
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..tracing import PROBES

ROOT_PATH = "app.realtime.root_path"
"""Key in a request's scope: the path where the application is mounted, without its own mounts."""

REASON = "app.realtime.reason"
"""Key in a request's scope: why the request is refused, for the log; never the client's text."""

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


def template_of(app: FastAPI, scope: Scope) -> str | None:
    """Return the template of the route that a request has reached, including its mount.

    FastAPI notes only the innermost route, and none for files.
    """
    found = max(matching_routes(app, scope), key=lambda each: each[0].value, default=None)
    if found is None:
        return None
    outer = found[1].path or ""
    is_mounted = scope.get("root_path", "") != _root_path(scope)
    inner = getattr(scope.get("route"), "path", "") if is_mounted else ""
    return f"{outer}{inner}" or "/"


def matching_routes(app: FastAPI, scope: Scope) -> Iterator[tuple[Match, RouteContext]]:
    """Yield the routes of a path, in any part of the application, and how each matches."""
    before_mount = {**scope, "root_path": _root_path(scope)}
    for route in iter_route_contexts(app.routes):
        match, _ = route.matches(before_mount)
        if match is not Match.NONE:
            yield match, route


def _root_path(scope: Scope) -> str:
    keys = ROOT_PATH, "app_root_path", "root_path"
    return next((str(scope[key]) for key in keys if key in scope), "")
