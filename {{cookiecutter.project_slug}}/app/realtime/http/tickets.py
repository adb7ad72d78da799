"""``POST /tickets``: your backend gets a ticket for one of its users."""

from fastapi import APIRouter, Depends, HTTPException, Request, Response, status
from pydantic import BaseModel

from ..auth.ticket import Ticket, TicketAuthenticator
from ..errors import AuthenticatorDown
from ..protocol import STRICT, UserName
from .body import described, parse
from .dependencies import KEY_REFUSALS, require_backend_key
from .errors import RETRY_SOON


class TicketRequest(BaseModel):
    """The user whom the ticket is for."""

    model_config = STRICT

    user: UserName


def tickets_router(authenticator: TicketAuthenticator) -> APIRouter:
    """Return a router that issues tickets."""
    router = APIRouter(dependencies=[Depends(require_backend_key)], responses=KEY_REFUSALS)

    @router.post(
        "/tickets", status_code=status.HTTP_201_CREATED, openapi_extra=described(TicketRequest)
    )
    async def buy(request: Request, response: Response) -> Ticket:
        """Return a ticket for one connection: ``/ws?ticket=…``."""
        response.headers["Cache-Control"] = "no-store"
        wanted = await parse(TicketRequest, request)
        try:
            return await authenticator.issue(wanted.user)
        except AuthenticatorDown as failure:
            msg = "tickets cannot be stored now"
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, msg, RETRY_SOON) from failure

    return router
