"""Which way imports point: the contracts of ``pyproject.toml``, and that they can be broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "search_spaces", "study")


def lint_imports(root: Path) -> tuple[int, str]:
    """Exit code and words of import-linter on a tree."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code to plant violations in."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(tree: Path, module: str, statement: str) -> None:
    path = tree / f"{module.replace('.', '/')}.py"
    with path.open("a") as file:
        file.write(f"\n{statement}\n")


def test_every_import_points_the_way_it_may() -> None:
    code, said = lint_imports(ROOT)
    assert code == 0, said
    assert "0 broken" in said


def test_an_untouched_copy_breaks_nothing(tree: Path) -> None:
    code, said = lint_imports(tree)
    assert code == 0, said


@pytest.mark.parametrize(
    ("module", "imported", "contract", "chain"),
    [
        ("models.checks", "search_spaces.space", "never the other way", "models.checks ->"),
        ("search_spaces.space", "study.plan", "never the other way", "search_spaces.space ->"),
        ("study.files", "study.data.process", "one way", "study.files -> study.data.process"),
        ("study.data.process", "study.training.loop", "one way", "study.data.process ->"),
        ("study.training.loop", "study.job", "one way", "study.training.loop -> study.job"),
        ("study.training.loop", "study.results.store", "one way", "study.training.loop ->"),
        ("study.results.schema", "study.query", "one way", "study.results.schema -> study.query"),
        ("study.query", "study.report", "one way", "study.query -> study.report"),
        ("study.results.schema", "study.results.store", "in a circle", "study.results"),
        ("study.request", "ray.tune", "Ray is in study.cluster alone", "study.request -> ray"),
        ("models.checks", "duckdb", "training loop and its clips", "models.checks -> duckdb"),
        ("study.training.loop", "optuna", "training loop", "study.training.loop -> optuna"),
        ("study.data.flow.tvl1", "decord", "Flow needs", "study.data.flow.tvl1 -> decord"),
    ],
)
@pytest.mark.parametrize("inside", ["", "def planted():\n    "], ids=["top", "in a function"])
def test_an_import_that_may_not_be_is_named(
    tree: Path, module: str, imported: str, contract: str, chain: str, inside: str
) -> None:
    plant(tree, module, f"{inside}import {imported}")
    code, said = lint_imports(tree)
    assert code == 1
    assert contract in said.partition("Broken contracts")[2]
    assert chain in said


def test_what_a_training_must_not_need_is_found_behind_another_module(tree: Path) -> None:
    (tree / "study/data/planted.py").write_text("import decord\n")
    plant(tree, "study.training.loop", "import study.data.planted")
    code, said = lint_imports(tree)
    assert code == 1
    assert "study.data.planted -> decord" in said


def test_a_new_module_of_the_study_must_be_given_its_place(tree: Path) -> None:
    (tree / "study/planted.py").write_text("")
    code, said = lint_imports(tree)
    assert code == 1
    assert "planted" in said
