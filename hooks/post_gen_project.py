"""Take away the files of options that were not chosen, and say what to do next.

Cookiecutter renders this script and runs it in the new project, with a Python of its own: only the
standard library is there. The answers come as JSON, so none is ever run as code.
"""

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
        "app/project.py",
        "app/publisher_redis.py",
        "app/settings_redis.py",
        "tests/proxy.py",
        "tests/test_backplane_redis.py",
        "tests/test_client_redis.py",
        "tests/test_faults_redis.py",
        "tests/test_idempotency_redis.py",
        "tests/test_cluster_redis.py",
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


def extras(answers: dict[str, Any]) -> list[str]:
    """Return the names of the yes-or-no options that were chosen."""
    return [name for name, answer in answers.items() if answer is True]


def remove_unchosen(project: Path, chosen: set[str]) -> None:
    """Remove every file that needs an option which was not chosen, and directories left empty.

    Raises:
        SystemExit: the table names a file that the template does not have.

    """
    if missing := [
        path for paths in FILES.values() for path in paths if not (project / path).is_file()
    ]:
        sys.exit(f"error: hooks/post_gen_project.py names missing files: {', '.join(missing)}")
    for options, paths in FILES.items():
        if not chosen.issuperset(options):
            for path in paths:
                (project / path).unlink()
                if not any((project / path).parent.iterdir()):
                    (project / path).parent.rmdir()


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
    remove_unchosen(Path(), {answers["auth"], *extras(answers)})
    print(summary(answers))


if __name__ == "__main__":
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
