"""The worked examples of ``docs/extending.md``, made in a copy of the project as they stand."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
COPIED = ("benchmarks", "models", "search_spaces", "study", "tests")
FILES_NOW = {
    "A fusion": 2,
    "An arm in a table": 1,
    "A search space": 2,
    "A dataset": 2,
    "A model": 3,
}


@dataclass(frozen=True)
class Example:
    """A section of the page.

    Attributes:
        title: Its heading.
        changes: (file, kind, text) of each code block; the kind is ``diff`` or ``python``.
        commands: The lines of its console blocks.
    """

    title: str
    changes: tuple[tuple[str, str, str], ...]
    commands: tuple[str, ...]


def examples() -> Iterator[Example]:
    for section in PAGE.split("\n## ")[1:]:
        consoles = re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        named = r"^`([^`\n]+)`\n\n```(diff|python)\n(.*?)^```$"
        changes = re.findall(named, section, re.MULTILINE | re.DOTALL)
        assert len(changes) + len(consoles) == section.count("\n```") // 2, "a block of no file"
        yield Example(
            title=section.partition("\n")[0],
            changes=tuple(changes),
            commands=tuple(line[2:] for text in consoles for line in text.splitlines()),
        )


EXAMPLES = {example.title: example for example in examples()}


def change(path: Path, kind: str, text: str) -> None:
    """Makes a file, appends to it, or changes it hunk by hunk."""
    if kind == "diff":
        for hunk in text.split("@@\n"):
            path.write_text(patched(path.read_text(), hunk))
        return
    before = f"{path.read_text()}\n\n" if path.exists() else ""
    path.write_text(before + text)


def patched(content: str, hunk: str) -> str:
    lines = hunk.splitlines(keepends=True)
    assert {line[0] for line in lines} <= {" ", "+", "-"}, hunk
    before = "\n" + "".join(line[1:] for line in lines if line[0] != "+")
    after = "\n" + "".join(line[1:] for line in lines if line[0] != "-")
    assert f"\n{content}".count(before) == 1, f"these lines must stand there once:{before}"
    return f"\n{content}".replace(before, after)[1:]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Extended:
    """The copy with every change made, and by example the files that differ through it."""

    root: Path
    touched: dict[str, set[str]]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    root = tmp_path_factory.mktemp("extended")
    for package in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, root / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    touched = {}
    before = contents(root)
    for title, example in EXAMPLES.items():
        for path, kind, text in example.changes:
            change(root / path, kind, text)
        after = contents(root)
        touched[title] = {path for path in after if after[path] != before.get(path)}
        before = after
    return Extended(root, touched)


@pytest.fixture(scope="module")
def outcomes(extended: Extended) -> dict[str, str]:
    """By test of the copy what came of it: ``passed``, ``failure``, ``error`` or ``skipped``.

    One process runs what the examples must do, and the pytest commands that they show.
    """
    paths, words = ["tests/worked_examples.py"], ["worked_examples"]
    for command in (shlex.split(line) for e in EXAMPLES.values() for line in e.commands):
        if command[:4] == ["python", "-m", "pytest", "-q"]:
            *files, flag, word = command[4:]
            assert flag == "-k"
            paths += files
            words.append(word)
    report = extended.root / "report.xml"
    arguments = [f"--junitxml={report}", "-k", " or ".join(words), *paths]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        cwd=extended.root,
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout + done.stderr
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[f"{case.get('classname')}.{case.get('name')}"] = kinds[0] if kinds else "passed"
    failed = [name for name, kind in found.items() if kind in ("failure", "error")]
    assert not failed, done.stdout
    return found


def test_every_example_has_files_and_commands() -> None:
    assert list(EXAMPLES) == list(FILES_NOW)
    for example in EXAMPLES.values():
        assert example.changes
        assert example.commands


@pytest.mark.parametrize("title", FILES_NOW)
def test_a_change_touches_as_many_files_as_the_page_says(title: str, extended: Extended) -> None:
    touched = extended.touched[title]
    assert touched == {path for path, _, _ in EXAMPLES[title].changes}
    assert len(touched) == FILES_NOW[title]
    anchor = title.lower().replace(" ", "-")
    (line,) = [line for line in PAGE.splitlines() if f"(#{anchor})" in line]
    assert int(line.split(" | ")[2]) == FILES_NOW[title]


@pytest.mark.parametrize("title", FILES_NOW)
def test_a_change_does_what_it_is_for(title: str, outcomes: dict[str, str]) -> None:
    name = f"tests.worked_examples.test_{title.lower().replace(' ', '_')}"
    assert outcomes["tests.worked_examples.test_it_is_the_copy_that_is_tested"] == "passed"
    assert outcomes[name] == "passed"


@pytest.mark.parametrize("title", [title for title in FILES_NOW if title != "An arm in a table"])
def test_the_tests_of_an_example_pass(title: str, outcomes: dict[str, str]) -> None:
    (path,) = [path for path, _, _ in EXAMPLES[title].changes if path.startswith("tests/")]
    module = path.removesuffix(".py").replace("/", ".")
    assert "passed" in [kind for name, kind in outcomes.items() if name.startswith(f"{module}.")]


def test_the_tests_of_every_fusion_space_and_model_run_on_the_new_ones(
    outcomes: dict[str, str],
) -> None:
    passed = {name for name, kind in outcomes.items() if kind == "passed"}
    for module, word, least in (
        ("tests.models.test_fusion", "[product]", 2),
        ("tests.search_spaces.test_every_space", "consensus", 10),
        ("tests.models.test_every_model", "lse_pooling", 15),
    ):
        of_module = [name for name in passed if name.startswith(module) and word in name]
        assert len(of_module) >= least, (module, sorted(of_module))


def test_the_examples_are_in_the_projects_style(extended: Extended) -> None:
    """Linted and formatted as the project's own files are."""
    files = sorted(set().union(*extended.touched.values()))
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *files],
            cwd=extended.root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
