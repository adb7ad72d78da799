"""``POST /login``: replaces the login of your site during development."""

from fastapi import APIRouter, Request, Response, status
from pydantic import BaseModel

from ..auth.session import AuthSettings, SessionAuthenticator
from ..protocol import STRICT, UserName
from .body import described, parse


class Login(BaseModel):
    """The user to log in."""

    model_config = STRICT

    user: UserName


def login_router(settings: AuthSettings, authenticator: SessionAuthenticator) -> APIRouter:
    """Return a router that logs anybody in."""
    router = APIRouter()

    @router.post("/login", status_code=status.HTTP_204_NO_CONTENT, openapi_extra=described(Login))
    async def log_in(request: Request, response: Response) -> None:
        """Set the cookie of a session with this user."""
        login = await parse(Login, request)
        response.set_cookie(
            settings.session_cookie,
            authenticator.sign({"user": login.user}),
            max_age=settings.session_max_age_s,
            httponly=True,
            samesite="lax",
        )

    return router
