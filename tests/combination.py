"""The combinations of answers, derived from ``cookiecutter.json``."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent.parent

Answer = str | bool


@dataclass(frozen=True)
class Combination:
    """One answer to each question that has choices."""

    answers: tuple[tuple[str, Answer], ...]

    @property
    def options(self) -> tuple[str, ...]:
        """Return the chosen options: the answers that are words, and the names of each yes."""
        return tuple(
            answer if isinstance(answer, str) else name
            for name, answer in self.answers
            if answer is not False
        )

    @property
    def id(self) -> str:
        """Return the options joined by hyphens, so that ``-k "jwt and not redis"`` works."""
        return "-".join(self.options)


def _choices(question: Any) -> list[Answer]:
    if isinstance(question, bool):
        return [True, False]
    return list(question)


QUESTIONS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
CHOICES: dict[str, list[Answer]] = {
    name: _choices(question)
    for name, question in QUESTIONS.items()
    if isinstance(question, bool | list) and not name.startswith("_")
}
COMBINATIONS = [
    Combination(tuple(zip(CHOICES, answers, strict=True)))
    for answers in itertools.product(*CHOICES.values())
]
OPTIONS = frozenset(option for combination in COMBINATIONS for option in combination.options)


def find(combination_id: str) -> Combination:
    """Return the combination with this id."""
    return next(each for each in COMBINATIONS if each.id == combination_id)


DEFAULT = Combination(
    tuple(
        (name, QUESTIONS[name][0] if isinstance(QUESTIONS[name], list) else QUESTIONS[name])
        for name in CHOICES
    )
)
