"""HTTP answers to failures, of the engine and of the team's code: problem details (RFC 9457)."""

from collections.abc import Mapping
from http.client import responses
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ..errors import (
    PROBLEM_TYPE,
    BadRequest,
    CommandError,
    InternalError,
    Refused,
    Rejected,
    problem,
)

RETRY_SOON = {"Retry-After": "1"}

FAILED = InternalError("the request failed inside the service")

log = structlog.stdlib.get_logger(__name__)


class Problem(BaseModel):
    """Why a request failed (RFC 9457). ``code`` is that of the protocol, where it has one."""

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


def add_error_answers(app: FastAPI, failures: Mapping[type[Exception], CommandError]) -> None:
    """Have all routes answer the engine's errors, and each kind of failure with its error."""
    app.exception_handler(CommandError)(_answer_command_error)
    app.exception_handler(Rejected)(_answer_rejected)
    app.exception_handler(Refused)(_answer_refused)
    app.exception_handler(HTTPException)(_answer_http_exception)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(Exception)(_answer_unexpected)
    for kind, error in failures.items():
        _answer_failures(app, kind, error)


def _answer(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    return JSONResponse(problem(status, detail, **more), status, headers, PROBLEM_TYPE)


async def _answer_command_error(request: Request, error: CommandError) -> Response:
    headers = RETRY_SOON if error.retry else None
    return _answer(error.status, str(error), headers, code=error.code)


async def _answer_rejected(request: Request, rejection: Rejected) -> Response:
    known = {401: {"WWW-Authenticate": "Bearer"}, 503: RETRY_SOON}
    status = rejection.status
    return _answer(status, rejection.close_as.reason, known.get(status))


async def _answer_refused(request: Request, refusal: Refused) -> Response:
    pause_s = refusal.retry_after_s
    headers = None if pause_s is None else {"Retry-After": str(pause_s)}
    return _answer(refusal.status, responses[refusal.status], headers)


async def _answer_http_exception(request: Request, failure: HTTPException) -> Response:
    """Answer with the exception's ``detail``; if that is a dict, with its members."""
    status, detail = failure.status_code, failure.detail
    if not is_body_allowed_for_status_code(status):
        return Response(status_code=status, headers=failure.headers)
    more = detail if isinstance(detail, dict) else {"detail": detail}
    return JSONResponse(problem(status, "") | more, status, failure.headers, PROBLEM_TYPE)


async def _answer_invalid(request: Request, failure: RequestValidationError) -> Response:
    """Name the field, as the protocol does, and list all errors; never repeat the input."""
    errors = failure.errors()
    field = ".".join(map(str, errors[0]["loc"]))
    detail = f"{field}: {errors[0]['msg']}" if field else errors[0]["msg"]
    cause = errors[0].get("ctx", {}).get("error")
    code = cause.code if isinstance(cause, CommandError) else BadRequest.code
    listed = [{key: error[key] for key in ("loc", "msg", "type")} for error in errors]
    return _answer(422, detail, code=code, errors=listed)


async def _answer_unexpected(request: Request, failure: Exception) -> Response:
    return await _answer_command_error(request, FAILED)


def _answer_failures(app: FastAPI, kind: type[Exception], error: CommandError) -> None:
    @app.exception_handler(kind)
    async def answer(request: Request, failure: Exception) -> Response:
        route = getattr(request.scope.get("route"), "path", None)
        log.error("handler failed", route=route, code=error.code, exc_info=failure)
        return await _answer_command_error(request, error)
