"""The Python client: a connection that repairs itself, for backends and tools.

# {% if cookiecutter.rooms %}
    async with connect(url, token=get_token) as ws, ws.room("orders", state=load) as room:
        async for message in room:
            print(message.user, message.data)
# {% else %}
    async with connect(url, token=get_token) as ws:
        async for frame in ws:
            print(frame["from"], frame["data"])
# {% endif %}

It needs the package ``websockets`` and nothing else of this project: copy the folder to where you
need it. ``docs/clients.md`` explains it.
"""

from .connection import Connection, connect
from .frames import RequestError
# {% if cookiecutter.rooms %}
from .rooms import Message
from .status import ABNORMAL, Ended, Status

__all__ = ["ABNORMAL", "Connection", "Ended", "Message", "RequestError", "Status", "connect"]
# {% else %}
from .status import ABNORMAL, Ended, Status

__all__ = ["ABNORMAL", "Connection", "Ended", "RequestError", "Status", "connect"]
# {% endif %}
