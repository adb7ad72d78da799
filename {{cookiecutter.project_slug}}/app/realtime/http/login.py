"""``POST /login``: replaces the login of your site during development."""

from fastapi import APIRouter, Request, Response, status
from pydantic import BaseModel

from ..protocol import STRICT, UserName
from .body import described, parse
from .dependencies import ServiceDep

router = APIRouter()


class Login(BaseModel):
    """The user to log in."""

    model_config = STRICT

    user: UserName


@router.post("/login", status_code=status.HTTP_204_NO_CONTENT, openapi_extra=described(Login))
async def log_in(request: Request, service: ServiceDep, response: Response) -> None:
    """Set the cookie of a session with this user."""
    login = await parse(Login, request)
    response.set_cookie(
        service.settings.session_cookie,
        service.authenticator.sign({"user": login.user}),
        max_age=service.settings.session_max_age_s,
        httponly=True,
        samesite="lax",
    )
