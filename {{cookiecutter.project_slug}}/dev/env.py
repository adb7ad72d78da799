"""Write a first `.env`: a copy of `.env.example` with fresh secrets. ``python -m dev.env``."""

import os
import sys
from pathlib import Path
from secrets import token_urlsafe

from . import fresh_secrets

EXAMPLE = Path(".env.example")
TARGET = Path(".env")


def fill(example: str, secrets: dict[str, str]) -> str:
    """Return the example with a value for each secret that it leaves empty.

    Raises:
        ValueError: the example has no line for a secret.
    """
    for name, value in secrets.items():
        begin = f"\n{name}="
        if begin not in example:
            raise ValueError(f"{EXAMPLE} has no line {name}=")
        example = example.replace(f"{begin}\n", f"{begin}{value}\n")
    return example


def main() -> None:
    """Write the file, readable only for its owner; exit if there is one."""
    secrets = fresh_secrets() | {"METRICS_KEY": token_urlsafe(32)}
    # {% if cookiecutter.redis %}
    secrets["VALKEY_PASSWORD"] = token_urlsafe(32)
    # {% endif %}
    content = fill(EXAMPLE.read_text(encoding="utf-8"), secrets)
    try:
        descriptor = os.open(TARGET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.exit(f"{TARGET} exists already; remove it to get a new one")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
    except BaseException:
        TARGET.unlink()  # otherwise a later run would keep a partial file
        raise
    print(f"wrote {TARGET} with fresh secrets for development")


if __name__ == "__main__":
    main()
