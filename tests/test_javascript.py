"""The JavaScript of a project has right types in every combination; the client is small."""

import gzip
import json
import re
from pathlib import Path

from proof.overlay import JINJA

from .checks.files import needed_options
from .combination import COMBINATIONS, DEFAULT, TEMPLATE, Combination
from .process import check_output
from .project import PROJECT_DIRECTORY
from .venv import npm_directory

ROOT = TEMPLATE / PROJECT_DIRECTORY
ENGINE = Path("app", "realtime")
CLIENT = ("client",)
PAGES = ("http/page", "http/docs/ws")
PACKAGES = ("typescript@7.0.2", "terser@5.51.4")
MAX_LINES = 400
MAX_COMPRESSED_BYTES = 3_730
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


def render(combination: Combination, directories: tuple[str, ...] = CLIENT) -> dict[str, str]:
    """Return the modules in some directories of the engine by the paths in their URLs."""
    answers = dict(combination.answers)
    paths = [
        path.relative_to(ROOT)
        for directory in directories
        for path in sorted((ROOT / ENGINE / directory).glob("*.js"))
    ]
    return {
        path.relative_to(ENGINE).as_posix().removeprefix("http/"): JINJA.from_string(
            (ROOT / path).read_text(encoding="utf-8")
        ).render(cookiecutter=answers)
        for path in paths
        if needed_options(path) <= set(combination.options)
    }


def variants(directories: tuple[str, ...] = CLIENT) -> list[dict[str, str]]:
    """Return the modules of all combinations, each variant of them once."""
    rendered = [render(combination, directories) for combination in COMBINATIONS]
    return list({json.dumps(files): files for files in rendered}.values())


def check_types(tmp_path: Path, directories: tuple[str, ...], **options: object) -> None:
    """Check the types of every variant."""
    for number, files in enumerate(variants(directories)):
        for name, text in files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS | options}))
    check_output([str(tools() / "tsc"), "--project", "."], tmp_path)


def tools() -> Path:
    """Return the directory of the programs."""
    return npm_directory(*PACKAGES) / "node_modules" / ".bin"


def test_the_client_has_few_and_short_lines() -> None:
    for files in variants():
        code = [line for text in files.values() for line in text.splitlines()]
        assert max(map(len, code)) <= 100
        assert len([line for line in code if not COMMENT.match(line)]) <= MAX_LINES


def test_the_minified_client_is_small(tmp_path: Path) -> None:
    bundle = "".join(max(variants(), key=lambda files: len("".join(files.values()))).values())
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


def test_types_of_the_client_are_right_in_every_variant(tmp_path: Path) -> None:
    check_types(tmp_path, CLIENT)


def test_names_in_the_pages_are_right_in_every_variant(tmp_path: Path) -> None:
    check_types(tmp_path, CLIENT + PAGES, strict=False)
