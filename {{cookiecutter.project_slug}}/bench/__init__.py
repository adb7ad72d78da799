"""`make bench`: what the service does in a second, beside a bare loop that does nothing else.

Each scenario is one way to use the service. Not shipped.
"""

# {% if cookiecutter.rooms %}
from .scenario_rooms import ROOM
# {% endif %}
from .scenarios import CONNECTS, ECHO, FAN_OUT, LATENCY, MEMORY, ONE_AT_A_TIME

SCENARIOS = (
    FAN_OUT,
    # {% if cookiecutter.rooms %}
    ROOM,
    # {% endif %}
    ONE_AT_A_TIME,
    ECHO,
    LATENCY,
    CONNECTS,
    MEMORY,
)
