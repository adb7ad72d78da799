"""``/asyncapi.json``: the WebSocket protocol in AsyncAPI 3.1, made from models and commands.

https://www.asyncapi.com/docs/reference/specification/v3.1.0
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING
from functools import partial
from inspect import getdoc
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from starlette.responses import JSONResponse

# {% if cookiecutter.auth != "none" %}
from ..auth import CREDENTIALS
# {% endif %}
from ..commands.router import CommandRouter, types_of
from ..endpoint.handshake import limits_of
from ..errors import CommandError, close_codes, subclasses
from ..protocol import Close, Command, ErrorReply, Ok, Reply, ServerFrame
from ..settings.settings import RealtimeSettings
from ..wire.asgi import TOO_BIG

Json = dict[str, Any]

BROKEN_PROTOCOL = {Close(1002, "protocol error"), Close(1007, "bad UTF-8"), TOO_BIG}
"""How the WebSocket library closes a connection that breaks the protocol (RFC 6455 §7.4.1)."""

router = APIRouter()


@router.get("/asyncapi.json", include_in_schema=False)
async def read_asyncapi(request: Request) -> JSONResponse:
    """Return the document, with the URL at which the client found it."""
    url = request.url.replace(path=request.scope["root_path"], query="")
    return JSONResponse(request.app.asyncapi(str(url)))


def describe(commands: CommandRouter, settings: RealtimeSettings, url: str, path: str) -> Json:
    """Return the document, without its ``info``, for a service with this URL and WebSocket path."""
    frames = _sent_frames()
    handlers = {model: _function_of(each) for model, each in commands.handlers.items()}
    replies = {model: _replies_of(each, frames) for model, each in handlers.items()}
    answers = dict.fromkeys(reply for each in replies.values() for reply in each)
    events = [frame for frame in frames if not issubclass(frame, Reply)]
    names, schemas = _schemas(replies, [*answers, *events])
    operations = {
        names[model]: {
            "action": "receive",
            "description": getdoc(handler) or "",
            **_messages(names[model]),
            "reply": _messages(*(names[reply] for reply in replies[model])),
        }
        for model, handler in handlers.items()
    }
    operations |= {names[each]: {"action": "send", **_messages(names[each])} for each in events}
    security = _security(settings)
    base = urlsplit(url)
    server = {
        "host": base.netloc,
        "pathname": base.path.rstrip("/"),
        "protocol": "wss" if base.scheme in {"https", "wss"} else "ws",
        "security": [_ref("components", "securitySchemes", name) for name in security],
    }
    channel = {
        "address": path,
        "messages": {name: _message(kind, name, schemas[name]) for kind, name in names.items()},
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        "x-limits": limits_of(settings),
        "x-close-codes": _close_codes(),
    }
    return {
        "asyncapi": "3.1.0",
        "defaultContentType": "application/json",
        "servers": {settings.environment: server},
        "channels": {"connection": channel},
        "operations": operations,
        "components": {"schemas": schemas, "securitySchemes": security},
    }


class _Schemas(GenerateJsonSchema):
    """JSON Schemas for AsyncAPI and for code generators."""

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """Leave out a default that is not valid JSON, and null where any JSON is allowed."""
        described = super().default_schema(schema)
        if described == {"default": None}:
            return {}
        try:
            json.dumps(described.get("default"), allow_nan=False)
        except ValueError:
            del described["default"]
        return described

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave out titles of fields, since generators would make a type of each."""
        return False

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        """Leave out ``discriminator``, which has another meaning in AsyncAPI."""
        union = super().tagged_union_schema(schema)
        return {key: value for key, value in union.items() if key != "discriminator"}


def _schemas(commands: Iterable[Any], frames: list[Any]) -> tuple[dict[type, str], dict[str, Json]]:
    """Return the name of each class, and all schemas by name."""
    found, definitions = TypeAdapter.json_schemas(
        [(model, "validation", TypeAdapter(model)) for model in commands]
        + [(frame, "serialization", TypeAdapter(frame)) for frame in frames],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    names = {kind: ref["$ref"].rpartition("/")[2] for (kind, _), ref in found.items()}
    schemas = definitions["$defs"]
    schemas[names[ErrorReply]]["properties"]["code"] = {"type": "string", "oneOf": _error_codes()}
    for title, kinds in {"ClientFrame": commands, "ServerFrame": frames}.items():
        refs = [_ref("components", "schemas", names[kind]) for kind in kinds]
        name = f"{title}.Any" if title in schemas else title  # a class may have this name
        schemas[name] = {"title": name, "anyOf": refs}
    return names, schemas


def _sent_frames() -> list[type[ServerFrame]]:
    """Return all kinds of frames of the server, your own included, without abstract bases."""
    # A dataclass with slots replaces its class. Both are subclasses; the newer one comes later.
    kinds = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in subclasses(ServerFrame)}
    return [kind for kind in kinds.values() if _type_of(kind) is not MISSING]


def _function_of(handler: Any) -> Callable[..., Any]:
    while isinstance(handler, partial):
        handler = handler.func
    function: Callable[..., Any] = handler
    return function


def _replies_of(
    handler: Callable[..., Any], frames: list[type[ServerFrame]]
) -> list[type[ServerFrame]]:
    """Return the replies that the handler's annotation names, by default `Ok`, and the error."""
    try:
        answer = get_type_hints(handler).get("return")
    except NameError:  # a name that is imported only for type checkers
        answer = None
    kinds = dict.fromkeys(Ok if kind is NoneType else kind for kind in _named_in(answer))
    return [*([kind for kind in kinds if kind in frames] or [Ok]), ErrorReply]


def _named_in(annotation: Any, seen: frozenset[Any] = frozenset()) -> Iterator[Any]:
    """Yield the types that an annotation names, including those in a union or a future."""
    while hasattr(annotation, "__value__"):  # an alias by a `type` statement, perhaps recursive
        if annotation in seen:
            return
        seen, annotation = seen | {annotation}, annotation.__value__
    yield get_origin(annotation) or annotation  # a generic class, without its parameters
    for part in get_args(annotation):
        yield from _named_in(part, seen)


def _message(kind: type, name: str, schema: Json) -> Json:
    fields = schema["properties"]
    is_command = issubclass(kind, Command)
    types = types_of(kind) if is_command else fields["type"].get("enum") or [_type_of(kind)]
    reference = {"correlationId": {"location": "$message.payload#/id"}} if "id" in fields else {}
    payload = _ref("components", "schemas", name)
    return {"name": "|".join(types), "payload": payload, **reference}


def _type_of(frame: Any) -> Any:
    return frame.__dataclass_fields__["type"].default


def _messages(*names: str) -> Json:
    messages = [_ref("channels", "connection", "messages", name) for name in names]
    return {"channel": _ref("channels", "connection"), "messages": messages}


def _ref(*path: str) -> Json:
    return {"$ref": "/".join(["#", *path])}


def _error_codes() -> list[Json]:
    kinds = {kind.code: kind for kind in subclasses(CommandError) if "code" in vars(kind)}
    return [
        {"const": code, "description": getdoc(kind) or "", "x-retry": kind.retry}
        for code, kind in kinds.items()
    ]


def _close_codes() -> dict[str, Json]:
    # Clients reconnect after a failure of the server, and after 4000 to 4499.
    return {
        str(close.code): {"reason": close.reason, "reconnect": 1011 <= close.code < 4500}
        for close in sorted(close_codes() | BROKEN_PROTOCOL)
    }


def _security(settings: RealtimeSettings) -> dict[str, Json]:
    # {% if cookiecutter.auth == "none" %}
    return {}
    # {% else %}
    scheme = CREDENTIALS.model.model_dump(mode="json", by_alias=True, exclude_none=True)
    # {% if cookiecutter.auth != "jwt" %}
    scheme["type"] = "httpApiKey"  # OpenAPI has another name for it
    # {% endif %}
    # {% if cookiecutter.auth == "session" %}
    scheme["name"] = settings.session_cookie
    # {% endif %}
    return {CREDENTIALS.scheme_name: scheme}
    # {% endif %}
