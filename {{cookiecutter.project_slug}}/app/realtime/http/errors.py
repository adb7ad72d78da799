"""HTTP answers to the engine's errors, and to failures of the team's code."""

from collections.abc import Mapping
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from ..errors import CommandError, Refused, Rejected
from .request_log import REASON

RETRY_SOON = {"Retry-After": "1"}

log = structlog.stdlib.get_logger(__name__)


def add_error_answers(app: FastAPI, failures: Mapping[type[Exception], CommandError]) -> None:
    """Have all routes answer the engine's errors, and each kind of failure with its error."""
    app.exception_handler(CommandError)(_answer_command_error)
    app.exception_handler(Rejected)(_answer_rejected)
    app.exception_handler(Refused)(_answer_refused)
    for kind, error in failures.items():
        _answer_failures(app, kind, error)


async def _answer_command_error(request: Request, error: CommandError) -> Response:
    request.scope[REASON] = error.code
    headers = RETRY_SOON if error.retry else None
    return JSONResponse({"detail": str(error)}, error.status, headers)


async def _answer_rejected(request: Request, rejection: Rejected) -> Response:
    request.scope[REASON] = rejection.cause
    known = {401: {"WWW-Authenticate": "Bearer"}, 503: RETRY_SOON}
    detail, status = rejection.close_as.reason, rejection.status
    return JSONResponse({"detail": detail}, status, known.get(status))


async def _answer_refused(request: Request, refusal: Refused) -> Response:
    request.scope[REASON] = refusal.reason
    detail, pause_s = HTTPStatus(refusal.status).phrase, refusal.retry_after_s
    headers = None if pause_s is None else {"Retry-After": str(pause_s)}
    return JSONResponse({"detail": detail}, refusal.status, headers)


def _answer_failures(app: FastAPI, kind: type[Exception], error: CommandError) -> None:
    @app.exception_handler(kind)
    async def answer(request: Request, failure: Exception) -> Response:
        route = getattr(request.scope.get("route"), "path", None)
        log.error("handler failed", route=route, code=error.code, exc_info=failure)
        return await _answer_command_error(request, error)
