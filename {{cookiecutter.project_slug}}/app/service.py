"""The parts of one running service, as handlers and routes see them."""

from dataclasses import dataclass

from .auth import Authenticator
from .backplane import Backplane, Publication
from .flusher import Flusher
from .manager import ConnectionManager
from .origin import Origins
# {% if cookiecutter.rooms %}
from .rooms import Rooms
# {% endif %}
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """What `main.create_app` puts together, once per process.

    ``publication`` is the body that ``POST /publish`` takes.
    """

    settings: Settings
    origins: Origins
    authenticator: Authenticator
    backplane: Backplane
    flusher: Flusher
    manager: ConnectionManager
    # {% if cookiecutter.rooms %}
    rooms: Rooms
    # {% endif %}
    publication: type[Publication] = Publication
