"""``study.toml``: what a study writes of its request, and what ``--config`` makes of it."""

import tomllib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from study import conduct, run
from study.cluster.queue import JobSource
from study.request import Study
from study.searches import searches_of
from tests.fake_jobs import run_fake_job
from tests.plug_ins import plug_ins_forgotten

SMALL = (
    *("--space", "stilt", "--weights", "none", "--trials", "4", "--seeds", "2"),
    *("--set", "options.backbone=small", "epochs=9", "batch_size=8", "warmup_epochs=0"),
)


class Driver:
    """Runs the command's studies without Ray, with jobs that train nothing."""

    def __init__(self, store: Path, results: Path) -> None:
        self.where = ("--data", str(store), "--results", str(results))
        self.studies: list[Study] = []
        self.jobs = 0

    def __call__(self, *flags: str) -> Study:
        assert run.main(flags) == 0
        return self.studies[-1]

    def run_jobs(self, source: JobSource, *_: Any, **__: Any) -> None:
        while not source.done and (job := source.next_job()):
            source.started(job)
            run_fake_job(self.studies[-1], job)
            self.jobs += 1
            source.ended(job)


@pytest.fixture
def driver(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver(tiny_store, tmp_path / "results")

    def noted(study: Study, *arguments: Any, **more: Any) -> list[str]:
        made.studies.append(study)
        return conduct.run_study(study, *arguments, **more)

    monkeypatch.setattr(conduct, "running_ray", lambda *_, **__: nullcontext())
    monkeypatch.setattr(conduct, "node_folder", lambda: nullcontext(str(tmp_path)))
    monkeypatch.setattr(conduct, "at_once_on", lambda *_, **__: 1)
    monkeypatch.setattr(conduct, "run_jobs", made.run_jobs)
    monkeypatch.setattr(run, "run_study", noted)
    return made


def written(study: Study) -> Path:
    return Path(study.request.results) / "studies" / study.name / "study.toml"


def test_a_studys_file_repeats_it_and_nothing_trains_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = driver(*driver.where, *SMALL, "--arms", "stil", "two-stream", "--refit")
    assert driver.jobs > 0
    driver.jobs, text = 0, written(first).read_text()
    monkeypatch.chdir(tmp_path)
    again = driver("--config", str(written(first)))
    assert again.protocol == first.protocol
    assert again.request == first.request
    assert driver.jobs == 0
    assert written(first).read_text() == text


def test_flags_win_over_the_file_name_by_name(driver: Driver) -> None:
    search = ("--search", "momentum=0.8,0.9", "weight_decay=1e-4..1e-2:log")
    first = driver(*driver.where, *SMALL, *search, "--arms", "stil", "spatial", "--seeds", "1")
    more = ("--arms", "stil", "--seeds", "2", "--epochs", "3", "--name", "other")
    changed = ("--set", "batch_size=4", "momentum=0.7", "--search", "warmup_epochs=0..1")
    second = driver("--config", str(written(first)), *more, *changed)
    assert [arm.name for arm in second.arms] == ["stil"]
    assert (second.request.seeds, second.name, second.trials) == (2, "other", 4)
    assert second.request.changes == {
        "options.backbone": "small",
        "batch_size": 4,
        "momentum": 0.7,
        "epochs": 3,
    }
    searched = {parameter.name for parameter in second.request.parameters}
    assert searched == {"weight_decay", "warmup_epochs"}


VALUES: Mapping[str, Any] = {
    "scales": [1.0, 0.875],
    "milestones": [],
    "clip_norm": None,
    "flip": False,
    "options.head_dims": [16, 16],
    "options.attend_over": "cells",
    "loss_weights.spatial": 0.5,
    "learning_rate": 1e-05,
}


def test_values_of_every_kind_come_back_from_the_file(driver: Driver) -> None:
    typed = (
        *("scales=[1.0,0.875]", "milestones=[]", "clip_norm=null", "flip=false"),
        *("options.head_dims=[16,16]", "options.attend_over=cells"),
        *("loss_weights.spatial=0.5", "learning_rate=1e-05"),
    )
    first = driver(*driver.where, *SMALL, "--set", *typed, "--tuning", "fixed", "--arms", "stil")
    assert VALUES.items() <= first.request.changes.items()
    assert driver("--config", str(written(first))).request == first.request
    (training, *_) = first.plan().trainings.values()
    assert training.options["head_dims"] == (16, 16)
    assert training.hyperparameters.scales == (1.0, 0.875)
    assert training.hyperparameters.milestones == ()


def test_a_setting_within_a_setting_is_one_of_its_own_and_not_searched(driver: Driver) -> None:
    nested = ("--set", 'loss_weights={"spatial":0.5}')
    first = driver(*driver.where, *SMALL, *nested, "--arms", "stil")
    assert first.request.changes["loss_weights.spatial"] == 0.5
    (one,) = searches_of(first).values()
    assert "loss_weights.spatial" not in [known.name for known in one.search.parameters]
    assert driver("--config", str(written(first))).request == first.request


def test_a_file_repeats_a_space_of_ones_own_from_any_folder(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_space.py").write_text(
        "from dataclasses import replace\n\nimport search_spaces\n\n"
        'space = replace(search_spaces.get("stilt"), name="mine", tables=())\n'
    )
    with plug_ins_forgotten(folder):
        monkeypatch.chdir(folder)
        flags = ("--tuning", "fixed", "--arms", "stil")
        first = driver(*driver.where, "--space", "my_space.py:space", *SMALL[2:], *flags)
        monkeypatch.chdir(tmp_path)
        assert driver("--config", str(written(first))).protocol == first.protocol


def test_the_file_says_what_was_asked_and_what_the_rest_came_to(driver: Driver) -> None:
    study = driver(*driver.where, *SMALL, "--tuning", "fixed", "--arms", "stil", "--compile")
    text = written(study).read_text()
    asked = tomllib.loads(text)
    assert asked["comparison"] == {"space": "stilt", "arms": ["stil"], "seeds": 2}
    assert asked["tuning"] == {"tuning": "fixed", "trials": 4}
    assert asked["training"] == {"weights": ["none"], "compile": True}
    assert asked["results"] == {"results": study.request.results}
    lines = text.splitlines()
    for line in ('# split = ["1"]', '# name = "stilt-folder"', '# recipe = "paper"', "# vary = []"):
        assert line in lines
    assert f"protocol {study.protocol}" in lines[0]


def test_a_file_of_ones_own_needs_no_sections(driver: Driver, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    lines = ('space = "stilt"', "seeds = 1", 'tuning = "fixed"', 'vary = ["split-carve", "search"]')
    changes = 'set = {options.backbone = "small", epochs = 2, batch_size = 8}'
    file.write_text("\n".join((*lines, 'weights = "none"', 'arms = ["stil"]', changes)))
    study = driver("--config", str(file), *driver.where)
    assert study.request.vary == ("split-carve", "search")
    assert study.request.changes["batch_size"] == 8


REFUSED: Mapping[str, tuple[str, str]] = {
    "a misspelled key": ("[tuning]\ntrails = 3", "unknown key 'trails'; did you mean trials?"),
    "a key of Python's": ("gpus_per_worker = 1", "did you mean gpus-per-worker?"),
    "two unknown keys": ("sede = 1\nspilt = 2", "'sede'; did you mean seeds?; unknown key 'spilt'"),
    "an unknown section": ("[magic]\nspace = 'stilt'", "unknown key 'magic'; there are space, "),
    "a key twice": ("seeds = 1\n[comparison]\nseeds = 2", "has seeds twice"),
    "a word for a number": ("seeds = 'many'", "argument --seeds: invalid int value: 'many'"),
    "an unknown choice": ("tuning = 'magic'", "argument --tuning: invalid choice: 'magic'"),
    "a number for a switch": ("compile = 1", "compile must be true or false, got 1"),
    "a table for a value": ("[name]\nx = 1", "name takes no table"),
    "no TOML": ("seeds =", "is not TOML"),
    "a switch of the command": ("dry-run = true", "unknown key 'dry-run'"),
    "no space": ("seeds = 1", "--space SPACE is needed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_is_refused_in_a_line_that_names_what(
    name: str, driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, reason = REFUSED[name]
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(SystemExit) as end:
        run.main(["--config", str(file)])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("study.run: ")
    assert reason in err
    assert not driver.studies


def test_a_file_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(["--config", str(tmp_path / "none.toml")])
    assert end.value.code == 2
    assert "none.toml can't be read" in capsys.readouterr().err


def test_every_flag_stands_in_a_section_or_is_one_of_the_command_itself() -> None:
    parser = run._parser()
    in_sections = {name for one in parser.sections for flag in one.flags for name in [flag.dest]}
    everything = set(vars(parser.parse_args([])))
    assert everything - in_sections == {"config", "like", "resume", "dry_run", "list"}
