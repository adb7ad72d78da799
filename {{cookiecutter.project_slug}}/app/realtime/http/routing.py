"""The engine's routers; and the routes of a path, for the log and for a 405."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import Match
from starlette.types import Scope

ROOT_PATH = "app.realtime.root_path"
"""The key in a request's scope of where the application is mounted; its own mounts add to it."""


def engine_router(**options: Any) -> APIRouter:
    """Return a router whose functions give OpenAPI their names: code generators use them, too."""
    return APIRouter(generate_unique_id_function=lambda route: route.name, **options)


def template_of(app: FastAPI, scope: Scope) -> str | None:
    """Return the template of the route that a request has reached, with that of its mount.

    FastAPI notes the innermost route alone, and none for files.
    """
    routes = dict(reversed([*_matching(app, scope)]))  # the first of each kind
    if not routes:
        return None
    outer = routes[max(routes, key=lambda match: match.value)].path or ""
    is_mounted = scope.get("root_path", "") != _root_path(scope)
    inner = getattr(scope.get("route"), "path", "") if is_mounted else ""
    return f"{outer}{inner}" or "/"


def allow(app: FastAPI, scope: Scope) -> Mapping[str, str] | None:
    """Return the header with all methods of a path (RFC 9110 §15.5.6): FastAPI's has one route's.

    None if a route accepts the method: then the `Allow` of the route itself is right.
    """
    routes = list(_matching(app, scope))
    if not routes or any(match is Match.FULL for match, _ in routes):
        return None
    methods = {method for _, route in routes for method in route.methods or ()}
    return {"Allow": ", ".join(sorted(methods))}


def _matching(app: FastAPI, scope: Scope) -> Iterator[tuple[Match, RouteContext]]:
    before_mount = {**scope, "root_path": _root_path(scope)}
    for route in iter_route_contexts(app.routes):
        match, _ = route.matches(before_mount)
        if match is not Match.NONE:
            yield match, route


def _root_path(scope: Scope) -> str:
    keys = ROOT_PATH, "app_root_path", "root_path"
    return next((str(scope[key]) for key in keys if key in scope), "")
