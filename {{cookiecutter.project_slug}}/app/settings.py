"""Your settings, read from the environment and ``.env``. The engine's are in `.env.example`."""

from .realtime import RealtimeSettings


class Settings(RealtimeSettings):
    """Every setting of the service. Add your own here, and to `.env.example`."""
