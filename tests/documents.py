"""The project's documents: their code blocks, and pasting of Python blocks."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from .project import Project

MARKDOWN = MarkdownIt().enable("table")


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Its position, for messages."""
        return f"{self.document}:{self.line}"

    @property
    def target(self) -> str:
        """The file that its first line names: ``# app/handlers.py``."""
        first = self.text.partition("\n")[0]
        assert first.startswith("# "), f"{self.place}: the first line names no file"
        return first.removeprefix("# ")

    @property
    def body(self) -> str:
        """The lines below the first."""
        return self.text.partition("\n")[2].lstrip("\n")


def documents(project: Project) -> list[str]:
    """Return the names of the Markdown files at the top and in ``docs/``."""
    paths = [path for path in project.files() if path.suffix == ".md"]
    return [path.as_posix() for path in paths if path.parent in {Path(), Path("docs")}]


def blocks(project: Project, *languages: str) -> Iterator[Block]:
    """Yield the blocks of code in these languages, of every document."""
    for document in documents(project):
        yield from blocks_of(document, project.read(document), *languages)


def blocks_of(document: str, text: str, *languages: str) -> Iterator[Block]:
    """Yield the blocks of code in these languages, of one document."""
    for token in MARKDOWN.parse(text):
        if token.type == "fence" and token.info in languages and token.map:
            yield Block(document, token.map[0] + 1, token.info, token.content)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as on GitHub."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def tables(project: Project, document: str, heading: str = "") -> Iterator[list[str]]:
    """Yield the cells of each row of each table in a document, or below a heading; no headers."""
    cells: list[str] = []
    inside = False
    tokens = MARKDOWN.parse(project.read(document))
    latest = ""
    for token, before in zip(tokens, [None, *tokens], strict=False):
        if before is not None and before.type == "heading_open":
            latest = token.content
        elif token.type == "tbody_open":
            inside = heading in {"", latest}
        elif token.type == "tbody_close":
            inside = False
        elif token.type == "tr_open":
            cells = []
        elif token.type == "inline" and inside:
            cells.append(token.content)
        elif token.type == "tr_close" and inside:
            yield cells


@dataclass
class Segment:
    """A statement of a module or class, with the comments above it."""

    name: str
    text: str
    node: ast.stmt


def paste(module: str, block: str) -> str:
    """Return a module with a block pasted into it, as a reader would do it.

    Imports go to the top. A definition replaces the one with its name; classes are merged. A new
    definition goes before the next definition of the block that the module already has, or else to
    the end. The result is not formatted.
    """
    if not module:
        return block
    merged = _merged(_segments(module), _segments(block))
    imports = [each for each in merged if isinstance(each.node, ast.Import | ast.ImportFrom)]
    others = [each for each in merged if each not in imports]
    if others and _is_text(others[0].node):
        imports.insert(0, others.pop(0))
    return "\n\n".join(each.text for each in [*imports, *others]) + "\n"


def _segments(source: str) -> list[Segment]:
    return _segments_of(ast.parse(source).body, source.splitlines(), 0)


def _segments_of(body: list[ast.stmt], lines: list[str], start: int) -> list[Segment]:
    segments = []
    for node in body:
        end = node.end_lineno or node.lineno
        text = "\n".join(lines[start:end]).strip("\n")
        segments.append(Segment(_name(node), text, node))
        start = end
    return segments


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target)
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return "docstring" if _is_text(node) else ast.unparse(node)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _merged(old: list[Segment], new: list[Segment]) -> list[Segment]:
    merged, pending = list(old), list[Segment]()
    for segment in new:
        position = next((i for i, each in enumerate(merged) if each.name == segment.name), None)
        if position is None:
            pending.append(segment)
            continue
        merged[position] = _replaced(merged[position], segment)
        merged[position:position] = pending
        pending = []
    return merged + pending


def _replaced(old: Segment, new: Segment) -> Segment:
    if not (isinstance(old.node, ast.ClassDef) and isinstance(new.node, ast.ClassDef)):
        return new
    head, members = _class_parts(new)
    _, old_members = _class_parts(old)
    body = "\n\n".join(each.text for each in _merged(old_members, members))
    return Segment(new.name, f"{head}\n{body}", new.node)


def _class_parts(segment: Segment) -> tuple[str, list[Segment]]:
    (node,) = ast.parse(segment.text).body
    assert isinstance(node, ast.ClassDef)
    lines = segment.text.splitlines()
    first = node.body[0].lineno - 1
    return "\n".join(lines[:first]), _segments_of(node.body, lines, first)
