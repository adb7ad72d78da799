"""Cookiecutter understood the answers: it ignores unknown names."""

from tests.project import Project


def check_context(project: Project) -> None:
    """Compare each answer."""
    asked = dict(project.combination.answers)
    understood = {name: project.context.get(name) for name in asked}
    assert understood == asked, f"asked for {asked}, got {understood}"
