import hashlib
import subprocess
from pathlib import Path

import pytest

from study import provenance


def test_a_fingerprint_is_of_the_canonical_json():
    value = {"b": (1, 2.5), "a": "λ"}
    digest = hashlib.sha256('{"a":"λ","b":[1,2.5]}'.encode()).hexdigest()
    assert provenance.fingerprint(value) == digest[:16]
    assert provenance.fingerprint(value, digits=12) == digest[:12]


def test_git_state_is_empty_outside_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_state() == ("", False)


def test_a_change_of_the_code_makes_a_result_dirty_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
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
