"""Validation of the arguments that the team's code passes to the engine."""

from typing import Annotated, Unpack

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from .errors import BadRequest
from .fields import YEAR_S
from .protocol import UserName

Text = Annotated[str, StringConstraints(max_length=256)]
"""Valid Unicode. Without a limit, pydantic would accept lone surrogates, as in a plain `str`."""


class Arguments(TypedDict, total=False):
    """Arguments of the engine's methods."""

    user: UserName
    sender: UserName | None
    exclude: Text | None
    message_id: Text | None
    ban_s: Annotated[float, Field(ge=0, le=YEAR_S)]
    # {% if cookiecutter.rooms %}
    reason: Text | None
    last: Annotated[int, Field(ge=0, lt=2**53)]
    # {% endif %}


_arguments = TypeAdapter(Arguments).validator


def check_arguments(**arguments: Unpack[Arguments]) -> None:
    """Raise `BadRequest` if an argument is not valid."""
    try:
        _arguments.validate_python(arguments, strict=True)
    except ValidationError as failure:
        error = failure.errors()[0]
        raise BadRequest(f"{error['loc'][0]}: {error['msg']}") from None
