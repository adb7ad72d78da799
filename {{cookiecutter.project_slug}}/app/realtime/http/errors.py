"""HTTP answers to failures, of the engine and of the team's code: problem details (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from http.client import responses
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from ..connections.guard import sole_failure
from ..errors import (
    PROBLEM_TYPE,
    BadRequest,
    CommandError,
    InternalError,
    Refused,
    Rejected,
    problem,
)
from .request_log import REASON, matching_routes, template_of

RETRY_SOON = {"Retry-After": "1"}

FAILED = InternalError("the request failed inside the service")

log = structlog.stdlib.get_logger(__name__)


class Problem(BaseModel):
    """Why a request failed (RFC 9457). ``code`` is the protocol's code of the error, if any."""

    type: str
    title: str
    status: int
    detail: str
    code: str | None = None


def problems(descriptions: Mapping[int | str, str]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of failures, by status."""
    content = {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": description, "content": content}
        for status, description in descriptions.items()
    }


def add_error_handlers(app: FastAPI, failures: Mapping[type[Exception], CommandError]) -> None:
    """Answer the failures of all routes as problems, each kind in ``failures`` as its error."""
    for kind in (CommandError, Rejected, Refused, RequestValidationError, HTTPException, Exception):
        app.exception_handler(kind)(problem_response)
    app.exception_handler(ExceptionGroup)(_unwrap)
    for kind, error in failures.items():
        _handle_as(app, kind, error)


async def problem_response(request: Request, failure: Exception) -> Response:
    """Return the answer to a failure, and note its reason for the log."""
    match failure:
        case CommandError():
            request.scope.setdefault(REASON, failure.code)
            headers = RETRY_SOON if failure.retry else None
            return _problem(failure.status, str(failure), headers, code=failure.code)
        case Rejected(status=status):
            request.scope[REASON] = failure.cause
            known = {401: {"WWW-Authenticate": "Bearer"}, 503: RETRY_SOON}
            return _problem(status, failure.close_as.reason, known.get(status))
        case Refused(status=status):
            request.scope[REASON] = failure.reason
            return _problem(status, HTTPStatus(status).phrase, failure.headers)
        case RequestValidationError():
            return _invalid(request, failure)
        case HTTPException(status_code=status, headers=headers):
            if not is_body_allowed_for_status_code(status):
                return Response(status_code=status, headers=headers)
            # Not the detail, in which a route may repeat the client's input.
            request.scope.setdefault(REASON, responses.get(status, "other"))
            methods = _allow(request) if status == 405 else None
            return _problem(status, failure.detail, methods or headers)
    return await problem_response(request, FAILED)


async def _unwrap(request: Request, group: ExceptionGroup[Exception]) -> Response:
    raise sole_failure(group)  # the only failure of a group goes to the handler of its own kind


def _problem(
    status: int, detail: object, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    body = problem(status, detail, **more)
    # Like `JSONResponse`, but with ``?`` in place of lone surrogates, which UTF-8 cannot encode
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(errors="replace"), status, headers, PROBLEM_TYPE)


def _allow(request: Request) -> Mapping[str, str] | None:
    """Return `Allow` with all methods of a path (RFC 9110 §15.5.6); FastAPI's has those of a route.

    None if a route accepts the method: then the `Allow` of the route itself is right.
    """
    routes = list(matching_routes(request.app, request.scope))
    if not routes or any(match is Match.FULL for match, _ in routes):
        return None
    methods = {method for _, route in routes for method in route.methods or ()}
    return {"Allow": ", ".join(sorted(methods))}


def _invalid(request: Request, failure: RequestValidationError) -> Response:
    """Tell where the first error is, and list all; never repeat the input."""
    errors = [_without_input(error) for error in failure.errors()]
    place = ".".join(map(str, errors[0]["loc"]))
    cause = failure.errors()[0].get("ctx", {}).get("error")
    code = cause.code if isinstance(cause, CommandError) else BadRequest.code
    request.scope[REASON] = code
    return _problem(422, f"{place or 'body'}: {errors[0]['msg']}", code=code, errors=errors)


def _without_input(error: Mapping[str, Any]) -> dict[str, Any]:
    # The location of an unknown field ends with its name, which is the client's own text.
    loc = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    return {"loc": loc, "msg": error["msg"], "type": error["type"]}


def _handle_as(app: FastAPI, kind: type[Exception], error: CommandError) -> None:
    @app.exception_handler(kind)
    async def answer(request: Request, failure: Exception) -> Response:
        if request.scope["type"] == "websocket" and isinstance(failure, OSError):
            raise failure  # mostly a client that has gone
        route = template_of(request.app, request.scope)  # an outer app may use these handlers
        log.error("handler failed", route=route, code=error.code, exc_info=failure)
        return await problem_response(request, error)
