"""AsyncAPI's own parser accepts the document of every project."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .checks.protocol import print_document
from .combination import COMBINATIONS, DEFAULT
from .conftest import Baker
from .process import check_output
from .venv import npm_directory

PARSER = "@asyncapi/parser@3.6.6"

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


def test_the_parser_of_asyncapi_accepts_every_document(baked: Baker, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm for AsyncAPI's parser: apt-get install nodejs npm")
    directory = npm_directory(npm, PARSER)
    projects = [baked(combination) for combination in COMBINATIONS]
    with ThreadPoolExecutor(2) as threads:
        printed = list(threads.map(print_document, projects))
    documents = {each.combination.id: text for each, text in zip(projects, printed, strict=True)}
    documents["team"] = print_document(baked(DEFAULT), PRINT_WITH_COMMANDS_OF_A_TEAM)
    broken = json.loads(documents["team"])
    broken["operations"]["Draw"]["messages"] = [{"$ref": "#/channels/connection/messages/None"}]
    documents["broken"] = json.dumps(broken)
    for name, text in documents.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    files = sorted(tmp_path.glob("*.json"))
    validate: list[str | Path] = ["node", "--input-type=module", "--eval", VALIDATE, *files]
    found = {
        Path(file).stem: each
        for file, each in json.loads(check_output(validate, directory)).items()
    }
    assert found.pop("broken"), "the parser accepts a document with a reference to nothing"
    assert found.keys() == documents.keys() - {"broken"}
    assert not any(found.values()), found
