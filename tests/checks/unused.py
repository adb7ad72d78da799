"""The project has no definition that is used only with an option that was not chosen."""

from vulture.core import Vulture

from tests.project import Project

DIRECTORIES = ("app", "client", "dev")

USED_BY_DECORATORS = ["@router.*", "@*_validator", "@self.get"]

USED_ELSEWHERE = [
    # Methods for the team's code
    *("broadcast_frame", "connected", "is_online"),
    *("send_frame", "send_to_connection", "set_info"),
    # Fields that the team's code, a client or the environment knows by name
    *("backend_key", "claims", "heartbeat", "interval_s", "metrics_key", "online", "room"),
    *("valkey_password", "alg", "d", "kty", "use"),
    # What a base class of a library or of Python calls or reads
    *("__class__", "__init_subclass__", "_reconnect", "discover_master"),
    *("eof_received", "field_title_should_be_set", "handle_close", "handle_exit", "handle_ping"),
    *("model_config", "parser_exc", "pause_writing", "pong_timer", "process_redirect", "queue"),
    *("send_400_response", "send_with_limit", "should_exit"),
    *("timeout_graceful_shutdown", "traceback", "_unsupported_upgrade_warning", "_write_end"),
    # What tests use, and what is named at run time or in the Makefile
    *("direction", "help"),
]


def check_unused(project: Project) -> None:
    """Find definitions whose name is nowhere else in the code."""
    found = Vulture(ignore_names=USED_ELSEWHERE, ignore_decorators=USED_BY_DECORATORS)
    found.scavenge([project.root / directory for directory in DIRECTORIES])
    unused = [f"{item.typ} {item.name} in {item.filename}" for item in found.get_unused_code()]
    assert not unused, f"unused: {unused}"
