"""``POST /tokens``: issues tokens during development, in place of your backend."""

from dataclasses import dataclass

from fastapi import Request, Response, status

from .body import Login, described, parse
from .dependencies import ServiceDep
from .errors import problems
from .routing import engine_router

router = engine_router(tags=["development"], responses=problems({403: "`JWT_SECRET` is not set"}))


@dataclass(frozen=True, slots=True)
class Token:
    """A JSON Web Token."""

    token: str


@router.post("/tokens", status_code=status.HTTP_201_CREATED, openapi_extra=described(Login))
async def issue_token(request: Request, service: ServiceDep, response: Response) -> Token:
    """Return a token of any user."""
    response.headers["Cache-Control"] = "no-store"
    body = await parse(Login, request)
    return Token(service.authenticator.sign({"sub": body.user}, body.lifetime_s))
