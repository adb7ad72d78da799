"""Remove the files of options that were not chosen, check the name, and record the template.

Cookiecutter renders this script and runs it in the new project with Cookiecutter's Python, which
may be 3.8 and has only the standard library. The answers come as JSON, so none is ever run as code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import urlsplit

# A file or directory is kept only if all options in its key were chosen.
PATHS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("rooms",): (
        "app/realtime/client/rooms.js",
        "app/realtime/commands/rooms.py",
        "app/realtime/http/page/answer.js",
        "app/realtime/http/page/rooms.js",
        "app/realtime/http/rooms.py",
        "app/realtime/rooms",
        "client/rooms.py",
        "tests/realtime/commands/test_policy_rooms.py",
        "tests/realtime/commands/test_rooms.py",
        "tests/realtime/http/test_rooms.py",
    ),
    ("heartbeat",): (
        "app/realtime/connections/heartbeat.py",
        "tests/realtime/connections/test_heartbeat.py",
    ),
    ("redis",): (
        "app/realtime/http/page/nodes.js",
        "app/realtime/redis",
        "app/realtime/server/workers.py",
        "app/realtime/settings/redis.py",
        "dev/nodes.py",
        "deploy/kubernetes/scaling.yaml",
        "tests/realtime/redis",
    ),
    ("rooms", "redis"): (
        "app/realtime/redis/lua/rooms",
        "app/realtime/redis/rooms",
        "tests/realtime/redis/test_rooms.py",
    ),
    ("jwt",): (
        "app/realtime/auth/jwks.py",
        "app/realtime/auth/jwt.py",
        "app/realtime/commands/refresh.py",
        "app/realtime/http/tokens.py",
        "dev/credentials_jwt.py",
        "tests/realtime/auth/test_jwt.py",
        "tests/realtime/http/test_tokens.py",
    ),
    ("ticket",): (
        "app/realtime/auth/ticket.py",
        "app/realtime/http/tickets.py",
        "dev/credentials_ticket.py",
        "tests/realtime/auth/test_ticket.py",
    ),
    ("ticket", "redis"): ("tests/realtime/redis/test_tickets.py",),
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

# A file is removed if the option in its key was chosen.
NOT_WITH: dict[str, tuple[str, ...]] = {
    # A browser cannot send a key, so the page at `/` cannot connect.
    "api_key": (
        "app/realtime/http/page/answer.js",
        "app/realtime/http/page/commands.js",
        "app/realtime/http/page/frames.js",
        "app/realtime/http/page/json.js",
        "app/realtime/http/page/log.js",
        "app/realtime/http/page/nodes.js",
        "app/realtime/http/page/page.css",
        "app/realtime/http/page/page.js",
        "app/realtime/http/page/recovery.js",
        "app/realtime/http/page/rooms.js",
        "app/realtime/http/page/sign_in.js",
        "app/realtime/http/page/storage.js",
    ),
}

# Written by hooks/pre_gen_project.py if the directory had files.
FILES_BEFORE = ".files-before.json"

# This file stops `make` in a project that this hook did not finish. It begins with this comment.
UNFINISHED = "GNUmakefile"
UNFINISHED_BEGIN = (
    b"# make reads this file in place of Makefile. The template's last hook removes it."
)

# cruft reads it to update the project.
CRUFT_FILE = ".cruft.json"

# A file of every project. If it is older than this run, Cookiecutter has skipped existing files.
ENGINE = "app/realtime/__init__.py"

# Variables that tell git where a repository is.
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


def extras(answers: dict[str, Any]) -> list[str]:
    """Return the yes-or-no options that were chosen."""
    return [name for name, answer in answers.items() if answer is True]


def take_files_before(project: Path) -> dict[str, int]:
    """Return the files that existed before this run, with their modification times in ns."""
    notes = project / FILES_BEFORE
    if not notes.is_file():
        return {}
    before: dict[str, int] = json.loads(notes.read_text(encoding="utf-8"))
    notes.unlink()
    return before


def remove_unchosen(project: Path, chosen: set[str], before: dict[str, int]) -> list[str]:
    """Remove the files that the chosen options do not need, and directories that become empty.

    A file that existed before stays, unless Cookiecutter has overwritten it.

    Returns:
        The files of options that were not chosen, but stay.

    Raises:
        SystemExit: `PATHS` or `NOT_WITH` name a path that the template does not have.
    """
    named = [path for table in (PATHS, NOT_WITH) for paths in table.values() for path in paths]
    missing = [path for path in named if not (project / path).exists()]
    if missing:
        sys.exit(f"error: hooks/post_gen_project.py names missing files: {', '.join(missing)}")
    unchosen = [paths for options, paths in PATHS.items() if not chosen.issuperset(options)]
    unchosen += [paths for option, paths in NOT_WITH.items() if option in chosen]
    files = {
        file
        for paths in unchosen
        for path in paths
        if (project / path).resolve() == project.resolve() / path  # not behind a symbolic link
        for file in files_of(project / path)
    }
    kept = []
    for file in sorted(files):
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


def remove_unfinished(project: Path) -> None:
    """Remove the mark of an unfinished project, but no file of the user with its name."""
    mark = project / UNFINISHED
    if mark.is_file() and mark.read_bytes().startswith(UNFINISHED_BEGIN):
        mark.unlink()


def files_of(path: Path) -> Iterator[Path]:
    """Yield the file, or all files of the directory."""
    if path.is_dir():
        yield from (each for each in path.rglob("*") if not each.is_dir())
    else:
        yield path


def record_template(project: Path, answers: dict[str, Any]) -> None:
    """Write what cruft needs for updates, if the template is in a git repository.

    cruft itself runs this script without `_repo_dir`, and writes the file afterwards. A relative
    path starts where Cookiecutter was started, not in the project, where this script runs.
    """
    if "_repo_dir" not in answers:
        return
    start = Path(os.environ.get("PWD", "/"))
    repository = Path(os.path.normpath(start / answers["_repo_dir"]))
    if not (repository / "cookiecutter.json").is_file() or is_unreadable(repository):
        print("To get updates, run in the new project: cruft link TEMPLATE", file=sys.stderr)
        return
    if git(repository, "ls-files", "cookiecutter.json") != "cookiecutter.json":
        return
    local = Path(os.path.normpath(start / answers["_template"]))
    public = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    state = {
        "template": str(local) if local.is_dir() else repository_url(repository),
        "commit": git(repository, "rev-parse", "HEAD"),
        "checkout": answers.get("_checkout") or None,
        "context": {"cookiecutter": public},
        "directory": git(repository, "rev-parse", "--show-prefix").rstrip("/") or None,
    }
    (project / CRUFT_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def is_unreadable(path: Path) -> bool:
    """Return whether git cannot read a repository: git is not installed, or distrusts its owner."""
    in_repository = any((each / ".git").exists() for each in (path, *path.parents))
    return in_repository and not git(path, "rev-parse", "--git-dir")


def repository_url(repository: Path) -> str:
    """Return where the repository was cloned from, without a user, token or password."""
    url = git(repository, "remote", "get-url", "origin")
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"}:
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return url.replace(f":{parts.password}@", "@") if parts.password else url


def git(repository: Path, *arguments: str) -> str:
    """Return the output of a git command, empty if it fails or git is not installed."""
    command = ["git", "-C", str(repository), *arguments]
    # With these variables, git would use another repository.
    env = {name: value for name, value in os.environ.items() if name not in GIT_PLACES}
    try:
        done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8", env=env)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def summary(answers: dict[str, Any]) -> str:
    """Return a summary and the next commands."""
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


def check_name(project: Path, slug: str) -> None:
    """Exit if the project has the name of a package that it needs, which installers refuse.

    Cookiecutter then removes the directory. A directory that existed before stays, and is marked as
    unfinished.
    """
    lock = (project / "requirements-dev.lock").read_text(encoding="utf-8")
    if slug.replace("_", "-") in re.findall("^([a-z0-9-]+)==", lock, re.MULTILINE):
        problem = "is the name of a package that the project needs"
        sys.exit(f"error: project_slug: {problem}; for example: {slug}-service")


def main(answers: dict[str, Any]) -> None:
    """Finish the project in the working directory."""
    before = take_files_before(Path())
    kept = remove_unchosen(Path(), {answers["auth"], *extras(answers)}, before)
    check_name(Path(), answers["project_slug"])
    remove_unfinished(Path())
    # With --skip-if-file-exists, an older project only gets missing files, and keeps its record.
    if before.get(ENGINE) != Path(ENGINE).lstat().st_mtime_ns:
        record_template(Path(), answers)
    print(summary(answers))
    if kept:
        # stdout may be unable to encode the name of a file.
        print(f"Kept files of options that were not chosen: {', '.join(kept)}", file=sys.stderr)


if __name__ == "__main__":
    main(json.loads(r"""{{ cookiecutter | tojson }}"""))
