"""Write the WebSocket protocol as an AsyncAPI document: ``python -m dev.asyncapi FILE``."""

import json
import sys
from pathlib import Path

from app.main import app

from .urls import base_url


def main(path: Path) -> None:
    """Write the document of the service that `.env` describes."""
    document = app.asyncapi(base_url(app.service.settings))
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
