"""What `make dev` watches. Not the file `.env` itself, since most editors replace it."""

from pathlib import Path

from watchfiles import Change, DefaultFilter


class Watched(DefaultFilter):
    """Accepts changes after which the service must restart."""

    def __call__(self, change: Change, path: str) -> bool:
        """Return whether the path is one of them."""
        name = Path(path).relative_to(Path.cwd()).parts[0]
        return name in {"app", ".env"} and super().__call__(change, path)
