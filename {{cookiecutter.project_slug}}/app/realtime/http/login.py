"""``POST /login``: replaces the login of your site during development."""

from fastapi import Request, Response, status

from .body import Login, described, parse
from .dependencies import ServiceDep
from .routing import engine_router

router = engine_router(tags=["development"])


@router.post("/login", status_code=status.HTTP_204_NO_CONTENT, openapi_extra=described(Login))
async def sign_in(request: Request, service: ServiceDep, response: Response) -> None:
    """Set the cookie of a session with this user."""
    body = await parse(Login, request)
    response.set_cookie(
        service.settings.session_cookie,
        service.authenticator.sign({"user": body.user}, body.lifetime_s),
        max_age=service.settings.session_max_age_s,
        samesite="lax",  # but not HttpOnly: the line of `make token` replaces this cookie
    )
