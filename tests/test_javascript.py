"""The client for pages is small, and its types are right, in every combination."""

import gzip
import json
import re
from pathlib import Path

from proof.overlay import JINJA

from .combination import COMBINATIONS, DEFAULT, TEMPLATE, Combination
from .process import check_output
from .project import PROJECT_DIRECTORY
from .venv import npm_directory

CLIENT = TEMPLATE / PROJECT_DIRECTORY / "app" / "realtime" / "client"
PACKAGES = ("typescript@7.0.2", "terser@5.51.4")
MAX_LINES = 340
MAX_COMPRESSED_BYTES = 3 * 1_024
COMMENT = re.compile(r"^\s*(?:/\*\*|\*|//)|^\s*$")
OPTIONS = {
    "allowJs": True,
    "checkJs": True,
    "lib": ["es2022", "dom"],
    "module": "esnext",
    "noEmit": True,
    "strict": True,
    "target": "es2022",
    "types": [],
}


def render(combination: Combination) -> dict[str, str]:
    """Return the files of the client by their names."""
    options = dict(combination.answers)
    return {
        path.name: JINJA.from_string(path.read_text(encoding="utf-8")).render(cookiecutter=options)
        for path in sorted(CLIENT.glob("*.js"))
        if path.name != "rooms.js" or options["rooms"]
    }


VARIANTS = list({json.dumps(render(each)): render(each) for each in COMBINATIONS}.values())


def tools() -> Path:
    """Return the directory of the programs."""
    return npm_directory(*PACKAGES) / "node_modules" / ".bin"


def test_the_lines_are_few() -> None:
    for files in VARIANTS:
        code = [line for text in files.values() for line in text.splitlines()]
        assert max(map(len, code)) <= 100
        assert len([line for line in code if not COMMENT.match(line)]) <= MAX_LINES


def test_a_page_loads_little(tmp_path: Path) -> None:
    bundle = "".join(max(VARIANTS, key=lambda files: len("".join(files.values()))).values())
    bundle = re.sub(r'^import .* from "./.*";$', "", bundle, flags=re.MULTILINE)
    (tmp_path / "bundle.mjs").write_text(bundle, encoding="utf-8")
    terser = str(tools() / "terser")
    minified = check_output([terser, "--module", "-c", "-m", "--", "bundle.mjs"], tmp_path)
    assert len(gzip.compress(minified.encode(), 9)) <= MAX_COMPRESSED_BYTES


def test_the_readme_states_the_sizes() -> None:
    files = [text.encode() for text in render(DEFAULT).values()]
    source_kb = sum(map(len, files)) / 1_000
    compressed_kb = sum(len(gzip.compress(file, 9)) for file in files) / 1_000
    stated = f"{source_kb:.0f} KB of source, {compressed_kb:.1f} KB with gzip"
    assert stated in (TEMPLATE / "README.md").read_text(encoding="utf-8")


def test_types_are_right_in_every_variant(tmp_path: Path) -> None:
    for number, files in enumerate(VARIANTS):
        (tmp_path / str(number)).mkdir()
        for name, text in files.items():
            (tmp_path / str(number) / name).write_text(text, encoding="utf-8")
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS}))
    check_output([str(tools() / "tsc"), "--project", "."], tmp_path)
