"""Answers to requests that the engine refuses."""

from fastapi import Request, Response, status
from starlette.responses import JSONResponse

from ..errors import Forbidden, Rejected, Unavailable

RETRY_SOON = {"Retry-After": "1"}


async def answer_unavailable(request: Request, failure: Unavailable) -> Response:
    """Answer 503: something that the request needs does not work now."""
    return JSONResponse({"detail": str(failure)}, status.HTTP_503_SERVICE_UNAVAILABLE, RETRY_SOON)


async def answer_forbidden(request: Request, failure: Forbidden) -> Response:
    """Answer 403: the policy refuses."""
    return JSONResponse({"detail": str(failure)}, status.HTTP_403_FORBIDDEN)


async def answer_rejected(request: Request, rejection: Rejected) -> Response:
    """Answer 401 to bad credentials, and 503 if they cannot be checked now."""
    is_unauthorized = rejection.status == status.HTTP_401_UNAUTHORIZED
    headers = {"WWW-Authenticate": "Bearer"} if is_unauthorized else RETRY_SOON
    return JSONResponse({"detail": rejection.close_as.reason}, rejection.status, headers)
