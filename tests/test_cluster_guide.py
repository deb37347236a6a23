"""The commands of ``docs/cluster.md``, typed as they stand, up to where work would begin."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study import prepare, query, run
from study.results.status import Status, write_status
from study.results.store import ResultStore

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
COMMANDS = [
    line[2:]
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def words_of_ours() -> Iterator[list[str]]:
    """The project's own commands, also those that are handed to a cluster."""
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "ray" and words[1] == "exec":
            words = shlex.split(words[-1].partition(" && ")[2])
        elif words[0] == "sbatch":
            words = words[2:]
        if words[0] == "python":
            yield words[2:]


def test_the_guide_has_commands_of_every_kind() -> None:
    programs = [words[0] for words in words_of_ours()]
    assert set(programs) == {"study.prepare", "study.query", "study.run"}
    assert {"ray", "sbatch", "kubectl", "docker"} <= {line.split()[0] for line in COMMANDS}


def test_every_study_of_the_guide_is_one_that_a_store_takes(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str | None] = []

    def keep(*_: Any, address: str | None, **__: Any) -> list[Any]:
        asked.append(address)
        return []

    monkeypatch.setattr(run, "run_study", keep)
    # ImageNet weights would be downloaded, and their backbones take a while.
    small = ["--weights", "none", "--set", "options.backbone=small", "flow_length=3"]
    studies = [words[1:] for words in words_of_ours() if words[0] == "study.run"]
    for words in studies:
        for folder in ("--data", "--results"):
            if folder in words:
                words[words.index(folder) + 1] = str(
                    tiny_store if folder == "--data" else tmp_path / "results"
                )
        assert run.main([*words, *small]) == 0, words
    assert asked == ["auto" if "--address" in words else None for words in studies]


def test_every_preparation_of_the_guide_is_one_that_is_taken() -> None:
    for words in (words for words in words_of_ours() if words[0] == "study.prepare"):
        asked = prepare._parser().parse_args(words[1:])
        assert asked.upload or (asked.address == "auto" and asked.videos and asked.splits)


def test_every_query_of_the_guide_is_answered(tmp_path: Path) -> None:
    status = Status(study="stilt-ucf101", state="done", host="node7", process=1, updated_at=0.0)
    write_status(ResultStore(tmp_path), status)
    for words in (words for words in words_of_ours() if words[0] == "study.query"):
        words[words.index("--results") + 1] = str(tmp_path)
        assert query.main(words[1:]) == 0


def test_rays_commands_take_what_they_are_given() -> None:
    ray = pytest.importorskip("ray.scripts.scripts").cli.commands
    typed = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("ray ")]
    for name, *words in typed:
        ray[name].make_context(name, words)
    assert {name for name, *_ in typed} == {"up", "rsync-up", "exec", "attach", "down"}


def test_every_file_that_a_command_names_is_there() -> None:
    named = set(re.findall(r"\bcluster[\w-]*\.(?:yaml|sh)\b", PAGE))
    assert named == {path.name for path in ROOT.glob("cluster*")}
    assert (ROOT / "Dockerfile").exists()
