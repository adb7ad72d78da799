"""Take away the files of options that were not chosen, and say what to do next.

Cookiecutter renders this script and runs it in the new project, with a Python of its own: only the
standard library is there, and it may be Python 3.8. The answers come as JSON, so none is ever run
as code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Iterator

# Each file, and each directory with all that is in it, is kept only if all the options before it
# were chosen.
PATHS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("rooms",): (
        "app/realtime/commands/rooms.py",
        "app/realtime/rooms",
        "bench/scenario_rooms.py",
        "tests/realtime/commands/test_policy_rooms.py",
        "tests/realtime/commands/test_rooms.py",
        "tests/realtime/rooms",
    ),
    ("heartbeat",): (
        "app/realtime/heartbeat.py",
        "tests/realtime/test_heartbeat.py",
    ),
    ("redis",): (
        "Caddyfile",
        "app/realtime/redis",
        "app/realtime/redis_settings.py",
        "tests/realtime/redis",
    ),
    ("rooms", "redis"): (
        "app/realtime/redis/feed.py",
        "app/realtime/redis/history.py",
        "app/realtime/redis/lua",
        "app/realtime/redis/presence.py",
        "app/realtime/redis/roster.py",
        "app/realtime/redis/scripts.py",
        "dev/chaos",
        "tests/realtime/redis/test_cluster_rooms.py",
        "tests/realtime/redis/test_faults_rooms.py",
        "tests/realtime/redis/test_feed.py",
        "tests/realtime/redis/test_history.py",
        "tests/realtime/redis/test_presence.py",
        "tests/realtime/redis/test_presence_model.py",
        "tests/realtime/redis/test_ready_rooms.py",
        "tests/realtime/test_chaos.py",
    ),
    ("jwt",): (
        "app/realtime/auth/jwks.py",
        "app/realtime/auth/jwt.py",
        "app/realtime/commands/refresh.py",
        "dev/credentials_jwt.py",
        "tests/realtime/auth/issuer.py",
        "tests/realtime/auth/test_jwks.py",
        "tests/realtime/auth/test_jwt.py",
    ),
    ("ticket",): (
        "app/realtime/auth/ticket.py",
        "app/realtime/http/tickets.py",
        "dev/credentials_ticket.py",
        "tests/realtime/auth/test_ticket.py",
    ),
    ("ticket", "redis"): (
        "app/realtime/redis/tickets.py",
        "tests/realtime/redis/test_tickets.py",
    ),
    ("session",): (
        "app/realtime/auth/session.py",
        "app/realtime/http/login.py",
        "dev/credentials_session.py",
        "tests/realtime/auth/test_session.py",
        "tests/realtime/http/test_login.py",
    ),
    ("api_key",): (
        "app/realtime/auth/api_key.py",
        "dev/credentials_api_key.py",
        "tests/realtime/auth/test_api_key.py",
    ),
    ("none",): (
        "app/realtime/auth/guest.py",
        "dev/credentials_none.py",
        "tests/realtime/auth/test_guest.py",
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
    missing = [path for paths in PATHS.values() for path in paths if not (project / path).exists()]
    if missing:
        sys.exit(f"error: hooks/post_gen_project.py names missing files: {', '.join(missing)}")
    unchosen = {
        file
        for options, paths in PATHS.items()
        if not chosen.issuperset(options)
        for path in paths
        for file in files_of(project / path)
    }
    kept = []
    for file in sorted(unchosen):
        name = file.relative_to(project).as_posix()
        if before.get(name) == file.lstat().st_mtime_ns:
            kept.append(name)
            continue
        file.unlink()
        for directory in file.parents:
            if directory == project or any(directory.iterdir()):
                break
            directory.rmdir()
    return kept


def files_of(path: Path) -> Iterator[Path]:
    """Yield the file, or all files of the directory."""
    if path.is_dir():
        yield from (each for each in path.rglob("*") if not each.is_dir())
    else:
        yield path


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
