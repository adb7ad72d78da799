"""Take away the files of options that were not chosen, and say what to do next.

Cookiecutter renders this script and runs it in the new project, with a Python of its own: only the
standard library is there, and it may be Python 3.8. The answers come as JSON, so none is ever run
as code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Each file is kept only if all the options before it were chosen.
FILES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("rooms",): (
        "app/handlers_rooms.py",
        "app/history.py",
        "app/policy_rooms.py",
        "app/presence.py",
        "app/rooms.py",
        "bench/scenario_rooms.py",
        "tests/history_contract.py",
        "tests/presence_contract.py",
        "tests/test_handlers_rooms.py",
        "tests/test_history.py",
        "tests/test_policy_rooms.py",
        "tests/test_presence.py",
        "tests/test_rooms.py",
    ),
    ("heartbeat",): (
        "app/heartbeat.py",
        "tests/test_heartbeat.py",
    ),
    ("redis",): (
        "Caddyfile",
        "app/backplane_redis.py",
        "app/client_redis.py",
        "app/idempotency_redis.py",
        "app/pacer_redis.py",
        "app/project.py",
        "app/publisher_redis.py",
        "app/settings_redis.py",
        "tests/proxy.py",
        "tests/test_backplane_redis.py",
        "tests/test_client_redis.py",
        "tests/test_faults_redis.py",
        "tests/test_idempotency_redis.py",
        "tests/test_cluster_redis.py",
        "tests/test_pacer_redis.py",
        "tests/test_ready_redis.py",
        "tests/test_sentinel_redis.py",
        "tests/valkey.py",
        "tests/valkey_cluster.py",
    ),
    ("rooms", "redis"): (
        "app/history_redis.py",
        "app/presence_redis.py",
        "app/roster_redis.py",
        "dev/chaos/__init__.py",
        "dev/chaos/__main__.py",
        "dev/chaos/client.py",
        "dev/chaos/faults.py",
        "dev/chaos/ledger.py",
        "dev/chaos/processes.py",
        "dev/chaos/trial.py",
        "tests/test_chaos.py",
        "tests/test_faults_rooms_redis.py",
        "tests/test_feed_redis.py",
        "tests/test_cluster_rooms_redis.py",
        "tests/test_history_redis.py",
        "tests/test_presence_model_redis.py",
        "tests/test_presence_redis.py",
        "tests/test_ready_rooms_redis.py",
    ),
    ("jwt",): (
        "app/auth_jwt.py",
        "app/handlers_jwt.py",
        "app/jwks.py",
        "dev/credentials_jwt.py",
        "tests/issuer.py",
        "tests/test_auth_jwt.py",
        "tests/test_jwks.py",
    ),
    ("ticket",): (
        "app/auth_ticket.py",
        "app/http_tickets.py",
        "dev/credentials_ticket.py",
        "tests/test_auth_ticket.py",
    ),
    ("ticket", "redis"): (
        "app/auth_ticket_redis.py",
        "tests/test_auth_ticket_redis.py",
    ),
    ("session",): (
        "app/auth_session.py",
        "app/http_login.py",
        "dev/credentials_session.py",
        "tests/test_auth_session.py",
        "tests/test_http_login.py",
    ),
    ("api_key",): (
        "app/auth_api_key.py",
        "dev/credentials_api_key.py",
        "tests/test_auth_api_key.py",
    ),
    ("none",): (
        "app/auth_none.py",
        "dev/credentials_none.py",
        "tests/test_auth_none.py",
    ),
}


# hooks/pre_gen_project.py writes it if there are any.
FILES_BEFORE = ".files-before.json"


def extras(answers: dict[str, Any]) -> list[str]:
    """Return the names of the yes-or-no options that were chosen."""
    return [name for name, answer in answers.items() if answer is True]


def take_files_before(project: Path) -> dict[str, int]:
    """Return which files were there before this run, with the times of their changes in ns."""
    notes = project / FILES_BEFORE
    if not notes.is_file():
        return {}
    before: dict[str, int] = json.loads(notes.read_text(encoding="utf-8"))
    notes.unlink()
    return before


def remove_unchosen(project: Path, chosen: set[str], before: dict[str, int]) -> list[str]:
    """Remove every file that needs an option which was not chosen, and directories left empty.

    A file that was there before stays, unless Cookiecutter has overwritten it.

    Returns:
        The files that stay.

    Raises:
        SystemExit: the table names a file that the template does not have.

    """
    missing = [path for paths in FILES.values() for path in paths if not (project / path).is_file()]
    if missing:
        sys.exit(f"error: hooks/post_gen_project.py names missing files: {', '.join(missing)}")
    kept = []
    for options, paths in FILES.items():
        for path in () if chosen.issuperset(options) else map(project.joinpath, paths):
            name = path.relative_to(project).as_posix()
            if before.get(name) == path.lstat().st_mtime_ns:
                kept.append(name)
                continue
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    return kept


def summary(answers: dict[str, Any]) -> str:
    """Return what was made and the next commands."""
    slug, chosen = answers["project_slug"], extras(answers)
    return "\n".join(
        [
            f"Made {slug}: auth {answers['auth']}, with {', '.join(chosen) or 'no extras'}.",
            "Next:",
            f"  cd {slug}",
            "  make run    # serve it on this machine",
            "  make test   # run its tests",
        ]
    )


def main(answers: dict[str, Any]) -> None:
    """Finish the project in the working directory."""
    before = take_files_before(Path())
    kept = remove_unchosen(Path(), {answers["auth"], *extras(answers)}, before)
    print(summary(answers))
    if kept:
        print(f"Kept files of options that were not chosen: {', '.join(kept)}")


if __name__ == "__main__":
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
