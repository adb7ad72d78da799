"""The checks of every project: functions that raise AssertionError."""

from collections.abc import Callable

from tests.project import Project

from .code import check_format, check_imports, check_lint, check_types
from .context import check_context
from .conversation import check_conversation
from .data import check_data
from .docs import check_docs
from .files import check_files
from .suite import check_suite
from .text import check_jinja, check_text
from .traces import check_traces
from .unused import check_unused

Check = Callable[[Project], None]

# Longest checks first, so that no worker is idle at the end.
CHECKS: dict[str, Check] = {
    "suite": check_suite,
    "service": check_conversation,
    "docs": check_docs,
    "types": check_types,
    "imports": check_imports,
    "format": check_format,
    "lint": check_lint,
    "traces": check_traces,
    "unused": check_unused,
    "text": check_text,
    "data": check_data,
    "jinja": check_jinja,
    "files": check_files,
    "context": check_context,
}
