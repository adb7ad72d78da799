"""Names of schemas in the AsyncAPI document."""

from typing import Literal

from app.realtime import Command, CommandRouter, Connection, Service

from ..engine import make_app
from ..live import make_settings


class ClientFrame(Command):
    """A command with the name of the schema of all commands."""

    type: Literal["frame"]


async def test_a_command_may_have_the_name_of_the_schema_of_all() -> None:
    router = CommandRouter()

    @router.command(ClientFrame)
    async def frame(service: Service, connection: Connection, command: ClientFrame) -> None: ...

    document = make_app(make_settings(), commands=router).asyncapi("http://localhost")
    schemas = document["components"]["schemas"]
    assert schemas["ClientFrame"]["properties"]["type"]["const"] == "frame"
    names = {each["$ref"].rpartition("/")[2] for each in schemas["ClientFrame.Any"]["anyOf"]}
    assert {"ClientFrame", "Ping"} <= names
