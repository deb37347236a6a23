"""``docs/own-dataset.md``, typed: its lists are written and its commands run as they stand."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from study import prepare, run
from study.data.store.clip_store import ClipStore
from study.request import Study
from tests.data.video_files import moving_square, write_video

PAGE = (Path(__file__).parents[1] / "docs" / "own-dataset.md").read_text()
FILES = dict(re.findall(r"`([\w.]+)`:?\n\n```(?:csv|text)\n(.*?)^```$", PAGE, re.M | re.S))
COMMANDS = [
    shlex.split(line.replace("\\\n", ""))
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
    for line in block.removeprefix("$ ").split("\n$ ")
]
# ImageNet weights would be downloaded, and their backbones take a while.
OFFLINE = ["--weights", "none", "--set", "options.backbone=small"]


@pytest.mark.slow
def test_the_guide_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On small videos; only the trainings themselves are left out."""
    asked: list[Study] = []

    def keep(study: Study, *_: Any, **__: Any) -> list[Any]:
        asked.append(study)
        return []

    monkeypatch.setattr(run, "run_study", keep)
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    listed = re.findall(r"^(\S+\.avi),", FILES["clips.csv"], re.M)
    for number, path in enumerate(listed):
        write_video(tmp_path / "clips" / path, moving_square(8, seed=number), codec="ffv1")

    said = []
    for program, *words in (words[2:] for words in COMMANDS):
        if program != "study.query":  # there are no rows
            main = {"study.prepare": prepare.main, "study.run": run.main}[program]
            assert main([*words, *(OFFLINE if main is run.main else [])]) == 0, words
        said.append(capsys.readouterr().out)
    _, made, again, preview, plan, _, _ = said
    assert "9 prepared" in made
    assert "there was nothing to do" in again
    assert "preview-jump-morning-ann-1.png" in preview
    assert "clips split 1: 4 train, 3 validation, 2 test videos of 2 classes" in plan
    assert [study.name for study in asked] == ["stilt-clips"]

    named, numbered = (ClipStore.open(f"stores/{name}") for name in ("clips", "from-lists"))
    assert named.annotations.classes == numbered.annotations.classes == ("jump", "run")
    one, other = named.annotations.splits["1"], numbered.annotations.splits["1"]
    assert (one.train, one.test) == (other.train, other.test)
    assert (len(one.validation), len(other.validation)) == (3, 0)
