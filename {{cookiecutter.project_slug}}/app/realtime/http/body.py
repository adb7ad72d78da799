"""Bodies of requests: validated as strictly as frames, and described in OpenAPI."""

from typing import Any, TypeVar

from fastapi import HTTPException, Request, status
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.middleware.body_limit import RequestBodyLimitResponder
from starlette.requests import ClientDisconnect
from starlette.types import Message

from ..errors import TooLarge
from ..fields import YEAR_S
from ..protocol import STRICT, UserName
from .errors import problem_response, problems
from .request_log import REASON

M = TypeVar("M", bound=BaseModel)

TOO_LARGE = problems({"413": "The body, or its data encoded again, is too large"})


def _is_of_cors(header: tuple[bytes, bytes]) -> bool:
    return header[0] == b"vary" or header[0].startswith(b"access-control-")


class BodyLimit(RequestBodyLimitResponder):
    """Limits the body of a request. The ``max_body_size`` of a route may be at most twice as large.

    Like Starlette's, it replaces the answer to a body that is too large. It answers with a problem,
    and keeps the CORS headers of the replaced answer, so that the same pages can read it.
    """

    _is_refused = False

    async def send_with_limit(self, message: Message) -> None:
        """Send a part of the answer, or the refusal in place of the whole answer."""
        if not self.response_started:
            self.response_started = True
            self._is_refused = max(self.total_size, self.content_length or 0) > self.max_body_size
            if self._is_refused:
                self.scope.pop(REASON, None)  # the reason of the replaced answer
                failure = TooLarge(f"the body has more than {self.max_body_size} bytes")
                refusal = await problem_response(Request(self.scope), failure)
                refusal.raw_headers.extend(filter(_is_of_cors, message.get("headers", ())))
                await refusal(self.scope, self.receive, self.send)
        if not self._is_refused:
            await self.send(message)


class UserBody(BaseModel):
    """A user."""

    model_config = STRICT

    user: UserName


# {% if cookiecutter.auth in ["jwt", "session"] %}
class Login(UserBody):
    """A user who signs in during development, and how long the credentials are valid."""

    lifetime_s: int | None = Field(default=None, ge=1, le=YEAR_S)


# {% endif %}
class Disconnection(UserBody):
    """A user to disconnect, and for how long to ban them; 0 lifts a ban."""

    ban_s: int | None = Field(default=None, ge=0, le=YEAR_S)


async def parse(model: type[M], request: Request) -> M:
    """Return the body: strict JSON without NaN, excessive depth or unknown fields.

    Raises:
        RequestValidationError: the body is something else; FastAPI answers 422.
        HTTPException: 400 if the client disconnected before the body was complete.
    """
    try:
        return model.model_validate_json(await request.body())
    except ClientDisconnect as failure:
        raise HTTPException(status.HTTP_400_BAD_REQUEST) from failure
    except ValidationError as failure:
        errors = failure.errors(include_input=False)
        raise RequestValidationError(errors) from failure


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that `parse` reads, and of its refusal by size."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}, "responses": TOO_LARGE}
