"""The project has exactly the files of what was chosen."""

from pathlib import Path

from tests.combination import OPTIONS, TEMPLATE
from tests.project import PROJECT_DIRECTORY, WORKING_FILES, Project

# A file is of the options that its name tells (auth_ticket_redis.py); these tell it otherwise.
EXCEPTIONS: dict[str, set[str]] = {
    "Caddyfile": {"redis"},
    "app/history.py": {"rooms"},
    "app/history_redis.py": {"rooms", "redis"},
    "app/http_login.py": {"session"},
    "app/http_tickets.py": {"ticket"},
    "app/jwks.py": {"jwt"},
    "app/presence.py": {"rooms"},
    "app/presence_redis.py": {"rooms", "redis"},
    "app/project.py": {"redis"},
    "app/roster_redis.py": {"rooms", "redis"},
    "dev/chaos/__init__.py": {"rooms", "redis"},
    "dev/chaos/__main__.py": {"rooms", "redis"},
    "dev/chaos/client.py": {"rooms", "redis"},
    "dev/chaos/faults.py": {"rooms", "redis"},
    "dev/chaos/ledger.py": {"rooms", "redis"},
    "dev/chaos/processes.py": {"rooms", "redis"},
    "dev/chaos/trial.py": {"rooms", "redis"},
    "tests/history_contract.py": {"rooms"},
    "tests/presence_contract.py": {"rooms"},
    "tests/proxy.py": {"redis"},
    "tests/test_chaos.py": {"rooms", "redis"},
    "tests/test_history.py": {"rooms"},
    "tests/test_http_login.py": {"session"},
    "tests/test_feed_redis.py": {"rooms", "redis"},
    "tests/test_history_redis.py": {"rooms", "redis"},
    "tests/test_presence.py": {"rooms"},
    "tests/test_presence_model_redis.py": {"rooms", "redis"},
    "tests/test_presence_redis.py": {"rooms", "redis"},
    "tests/issuer.py": {"jwt"},
    "tests/test_jwks.py": {"jwt"},
    "tests/valkey.py": {"redis"},
    "tests/valkey_cluster.py": {"redis"},
}


def needed_options(path: Path) -> set[str]:
    """Return the options without which a file of the template is of no use."""
    words = f"_{path.stem}_"
    return EXCEPTIONS.get(path.as_posix()) or {
        option for option in OPTIONS if f"_{option}_" in words
    }


def template_files(template: Path = TEMPLATE) -> list[Path]:
    """Return the files of the project with every option, relative to it."""
    root = template / PROJECT_DIRECTORY
    paths = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir()]
    return sorted(
        path
        for path in paths
        if not any(part.match(name) for part in map(Path, path.parts) for name in WORKING_FILES)
    )


def check_files(project: Project) -> None:
    """Compare with the template's files and what their names tell."""
    chosen = set(project.combination.options)
    everything = template_files(Path(project.context["_repo_dir"]))
    expected = {path for path in everything if needed_options(path) <= chosen}
    found = set(project.files())
    missing = ", ".join(map(str, sorted(expected - found)))
    extra = ", ".join(map(str, sorted(found - expected)))
    assert not missing, f"missing: {missing}"
    assert not extra, f"not asked for: {extra}"
    empty = [path for path in project.root.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert not empty, f"empty directories: {', '.join(map(str, empty))}"
