"""Policies of the tests' own, so that those which you edit do not change what the tests show.

``python -m tests.policies`` is ``python -m app`` with these.
"""

# {% if cookiecutter.rooms %}
from app import policy, policy_rooms
# {% else %}
from app import policy
# {% endif %}
from app.auth import Identity
from app.server import main
from app.settings import Settings


def can_send(identity: Identity, to: str) -> bool:
    """Let everybody send to anybody."""
    return True


def can_broadcast(identity: Identity, settings: Settings) -> bool:
    """Let clients broadcast if the setting says so."""
    return settings.clients_may_broadcast


# {% if cookiecutter.rooms %}
async def can_join(identity: Identity, room: str) -> bool:
    """Let everybody into every room."""
    return True


def can_publish(identity: Identity, room: str) -> bool:
    """Let every member publish."""
    return True


# {% endif %}
def install() -> None:
    """Put these in the place of the service's policies."""
    policy.can_send = can_send
    policy.can_broadcast = can_broadcast
    # {% if cookiecutter.rooms %}
    policy_rooms.can_join = can_join
    policy_rooms.can_publish = can_publish
    # {% endif %}


if __name__ == "__main__":
    install()
    main()
