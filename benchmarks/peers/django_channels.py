"""Django Channels with a group and the layer in memory.

https://channels.readthedocs.io/en/stable/tutorial/part_3.html
"""

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import re_path

GROUP = "room"

settings.configure(
    SECRET_KEY="for a benchmark",  # noqa: S106
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()
urlpatterns: list[object] = []


class Room(AsyncJsonWebsocketConsumer):
    """Broadcasts each message."""

    async def connect(self) -> None:
        """Accept a connection."""
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Remove a closed connection."""
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def receive_json(self, content: object) -> None:
        """Send to the group."""
        await self.channel_layer.group_send(GROUP, {"type": "room.message", "message": content})

    async def room_message(self, event: dict[str, object]) -> None:
        """Send a message of the group to the client."""
        await self.send_json(event["message"])


class Echo(AsyncWebsocketConsumer):
    """Echoes each message."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Echo the message."""
        await self.send(text_data=text_data)


app = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [re_path(r"^ws/", Room.as_asgi()), re_path(r"^echo$", Echo.as_asgi())]
        ),
    }
)
