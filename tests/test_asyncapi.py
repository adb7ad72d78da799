"""AsyncAPI's own parser accepts the documents of the protocol."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from .checks.protocol import print_document
from .combination import COMBINATIONS, DEFAULT, QUESTIONS, find
from .conftest import Baker
from .process import run
from .venv import npm_directory

PARSER = "@asyncapi/parser@3.6.6"
TIMEOUT_S = 600

SCHEMES = {
    "jwt": [("http", None, None, "bearer")],
    "ticket": [("httpApiKey", "query", "ticket", None)],
    "session": [("httpApiKey", "cookie", "session", None)],
    "api_key": [("httpApiKey", "header", "X-API-Key", None)],
    "none": [],
}
"""Type, place, name and scheme of what each style of authentication asks for."""

VALIDATE = """
import { fromFile, Parser } from "@asyncapi/parser";
const parser = new Parser();
const found = {};
for (const file of process.argv.slice(1)) {
  const { diagnostics } = await fromFile(parser, file).parse();
  found[file] = diagnostics.map(({ message, path }) => `${path.join(".")}: ${message}`);
}
console.log(JSON.stringify(found));
"""

PRINT_WITH_COMMANDS_OF_A_TEAM = """
import json
from tests.realtime.http.test_asyncapi import document
print(json.dumps(document()))
"""


@pytest.fixture(scope="module")
def parser() -> Path:
    """Return a directory in which Node.js finds the parser."""
    return npm_directory(PARSER)


@pytest.mark.parametrize("auth", QUESTIONS["auth"])
def test_the_parser_of_asyncapi_accepts_the_documents(
    parser: Path, baked: Baker, tmp_path: Path, auth: str
) -> None:
    combinations = [each for each in COMBINATIONS if auth in each.options]
    documents = {each.id: print_document(baked(each)) for each in combinations}
    found = diagnostics(parser, documents, tmp_path)
    assert found == {each.id: [] for each in combinations}


def test_the_parser_of_asyncapi_checks_the_commands_of_a_team(
    parser: Path, baked: Baker, tmp_path: Path
) -> None:
    document = print_document(baked(DEFAULT), PRINT_WITH_COMMANDS_OF_A_TEAM)
    broken = json.loads(document)
    broken["operations"]["Draw"]["messages"] = [{"$ref": "#/channels/connection/messages/None"}]
    found = diagnostics(parser, {"team": document, "broken": json.dumps(broken)}, tmp_path)
    assert not found["team"]
    assert found["broken"], "the parser accepts a document with a reference to nothing"


@pytest.mark.parametrize("auth", QUESTIONS["auth"])
def test_the_credentials_of_each_style_are_described(baked: Baker, auth: str) -> None:
    document = json.loads(print_document(baked(find(auth))))
    schemes = document["components"]["securitySchemes"]
    shown = [tuple(map(each.get, ("type", "in", "name", "scheme"))) for each in schemes.values()]
    assert shown == SCHEMES[auth]
    (server,) = document["servers"].values()
    names = [each["$ref"].rpartition("/")[2] for each in server["security"]]
    assert names == list(schemes)


def test_the_documented_generator_makes_types(parser: Path, baked: Baker, tmp_path: Path) -> None:
    page = baked(DEFAULT).read("docs/extending.md")
    lines = re.findall(r"^    (make asyncapi\n.*?npx .*?)\n$", page, re.MULTILINE | re.DOTALL)
    (script,) = lines
    (tmp_path / "asyncapi.json").write_text(print_document(baked(DEFAULT)), encoding="utf-8")
    script = script.removeprefix("make asyncapi\n").replace("npx ", "npx --yes ")
    done = run(["sh", "-ec", script], tmp_path, env=os.environ, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    types = set(re.findall(r"^export \w+ (\w+)", (tmp_path / "frames.d.ts").read_text(), re.M))
    assert {"ClientFrame", "ServerFrame", "Join", "JoinOk", "SendOk", "Welcome"} <= types


def diagnostics(
    parser: Path, documents: Mapping[str, str], directory: Path
) -> dict[str, list[str]]:
    """Return what the parser says of each document; one process is faster than many."""
    for name, text in documents.items():
        (directory / name).write_text(text, encoding="utf-8")
    files = [directory / name for name in documents]
    command: list[str | Path] = ["node", "--input-type=module", "--eval", VALIDATE, *files]
    done = run(command, parser, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return {Path(file).name: each for file, each in json.loads(done.stdout).items()}
