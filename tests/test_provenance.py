"""What counts as a change of a model's code, tried on a copy of the package."""

import shutil
import subprocess
from pathlib import Path

import pytest

from study import provenance


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    copy = tmp_path / "models"
    shutil.copytree(provenance.MODELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "MODELS", copy)
    return copy


def version() -> str:
    provenance.code_version.cache_clear()
    return provenance.code_version("models.stilt")


def append(path: Path, code: str) -> None:
    path.write_text(path.read_text() + code)


def test_code_of_the_model_and_of_what_it_imports_counts(models: Path):
    versions = [version()]
    for path in ("stilt.py", "layers/attention.py", "backbones/resnet.py", "registry.py"):
        append(models / path, "\nextra = 1\n")
        versions.append(version())
    assert len(set(versions)) == len(versions)


def test_comments_docstrings_and_other_models_do_not_count(models: Path):
    before = version()
    append(models / "stilt.py", "\n\n# a remark\n")
    append(models / "fusion.py", "\nextra = 1\n")
    text = (models / "stilt.py").read_text()
    (models / "stilt.py").write_text('"""Another docstring."""' + text[text.index('"""', 3) + 3 :])
    assert version() == before


def test_git_state_is_empty_outside_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(provenance, "MODELS", tmp_path / "models")
    assert provenance.git_state() == ("", False)


def test_a_change_of_the_code_makes_a_result_dirty_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(provenance, "MODELS", tmp_path / "models")
    for name in ("models", "study", "search_spaces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("one = 1\n")
    (tmp_path / "README.md").write_text("read\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "README.md").unlink()  # a cluster's nodes don't have it
    assert provenance.git_state() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "study/code.py").write_text("two = 2\n")
    assert provenance.git_state()[1]
