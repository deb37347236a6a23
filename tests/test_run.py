"""``python -m study.run`` as a user runs it, up to where Ray would start."""

import json
import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import search_spaces
from search_spaces.space import Choice, Real
from study import run
from study.configuration import value_of
from study.request import Request, Study, check_settings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """The studies that would have been run."""
    studies: list[Study] = []

    def keep(study: Study, searches: object, **_: Any) -> Any:
        studies.append(study)
        return []

    monkeypatch.setattr(run, "run_study", keep)
    return studies


def main(arguments: Sequence[str]) -> int:
    """The exit status, whether it is returned or raised."""
    try:
        return run.main(["--space", "stilt", *arguments])
    except SystemExit as end:
        return -1 if not isinstance(end.code, int) else end.code


def study_for(asked: list[Study], store: Path, results: Path, *arguments: str) -> Study:
    assert main(["--data", str(store), "--results", str(results), *SMALL, *arguments]) == 0
    return asked[-1]


SMALL = ("--weights", "none", "--set", "options.backbone=small")


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        (
            "learning_rate=1e-4..1e-1:log",
            Real(name="learning_rate", low=1e-4, high=0.1, log=True),
        ),
        ("options.dropout=0..0.9", Real(name="options.dropout", low=0, high=0.9)),
        ("momentum=-1.5..2", Real(name="momentum", low=-1.5, high=2)),
        ("a=1,2,x", Choice(name="a", choices=(1, 2, "x"))),
        ("a=1.5,true,null", Choice(name="a", choices=(1.5, True, None))),
        ("a=x", Choice(name="a", choices=("x",))),
        (
            "loss_weights.spatial=0.5..2:log",
            Real(name="loss_weights.spatial", low=0.5, high=2, log=True),
        ),
    ],
)
def test_a_searched_parameter_is_a_range_or_a_list(text: str, parameter: Any) -> None:
    assert run._parameter(text) == parameter


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate",
        "=1..2",
        "a=",
        "a=1..2:linear",
        "a=1,2:log",
        "a=x..y",
        "a=1..",
        "a=..1",
        "a=2..1",
        "a=0..1:log",
        "a=nan..1",
        "a=0..inf",
        "a=-inf..0",
        "a=1e400..1e401",
        "a=1..2..3",
    ],
)
def test_a_searched_parameter_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--search"):
        run._parameter(text)


def test_set_takes_numbers_words_and_lists(
    asked: list[Study], tiny_store: Path, tmp_path: Path
) -> None:
    study = study_for(
        asked,
        tiny_store,
        tmp_path,
        "--set",
        "scales=[1,0.875]",
        "batch_size=16",
        "--set",
        "loss_weights.spatial=0.5",
        "flip=false",
        "schedule=cosine",
        "fusion_lambda=2",
    )
    training = next(iter(study.plan().trainings.values()))
    hyperparameters = training.hyperparameters
    assert hyperparameters.scales == (1.0, 0.875)
    assert (hyperparameters.batch_size, hyperparameters.flip) == (16, False)
    assert hyperparameters.schedule == "cosine"
    assert hyperparameters.loss_weights["spatial"] == 0.5
    assert training.options["backbone"] == "small"
    assert {row.fusion_lambda for row in study.plan().rows} >= {2.0}


def test_search_adds_to_what_is_searched(
    asked: list[Study], tiny_store: Path, tmp_path: Path
) -> None:
    flags = ("--search", "momentum=0.8,0.9", "--search", "learning_rate=1e-3..1e-2:log")
    study = study_for(asked, tiny_store, tmp_path, *flags)
    searched = {parameter.name: parameter for parameter in study.space.parameters}
    assert searched["momentum"] == Choice(name="momentum", choices=(0.8, 0.9))
    assert searched["learning_rate"] == Real(name="learning_rate", low=1e-3, high=1e-2, log=True)
    before = {parameter.name for parameter in search_spaces.get("stilt").parameters}
    assert searched.keys() == before | {"momentum"}
    # Four trials for each of the five parameters, as none was asked for.
    assert study.trials == 20


def test_what_is_set_is_said_not_to_be_searched(
    asked: list[Study], tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_for(asked, tiny_store, tmp_path, "--set", "learning_rate=0.01")
    assert "set, so not searched: learning_rate" in capsys.readouterr().out


def test_what_only_the_dataset_lets_search_is_said_to_be_set_too(
    asked: list[Study],
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = search_spaces.get("stilt")
    more = (*space.parameters, Real(name="momentum", low=0.5, high=0.9))
    variants = {"folder": lambda own: replace(own, parameters=more)}
    monkeypatch.setattr(search_spaces, "load", lambda name: replace(space, variants=variants))
    study_for(asked, tiny_store, tmp_path, "--set", "momentum=0.6")
    assert "set, so not searched: momentum" in capsys.readouterr().out


def test_a_plan_of_few_steps_an_epoch_is_warned_of_and_the_recipe_for_small_data_named(
    asked: list[Study], tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_for(asked, tiny_store, tmp_path)
    said = capsys.readouterr().out
    assert "has 1 step only, and should have 10 or more: 20 train videos in batches of 128" in said
    assert "give --recipe small, or --set batch_size=2 learning_rate=RATE" in said
    assert "folder was prepared without --group" in said
    for batch_size, warned in (("3", True), ("2", False)):
        study_for(asked, tiny_store, tmp_path, "--set", f"batch_size={batch_size}")
        assert ("train videos in batches of" in capsys.readouterr().out) is warned


def test_a_recipe_is_what_is_started_from_and_set_goes_over_it(
    asked: list[Study], tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--recipe", "small", "--set", "batch_size=8")
    study = study_for(asked, tiny_store, tmp_path, *flags)
    for training in study.plan().trainings.values():
        found = training.hyperparameters
        assert (found.learning_rate, found.schedule, found.clip_norm) == (0.02, "cosine", 5.0)
        assert (found.batch_size, found.epochs) == (8, 100)
        assert training.options["dropout"] == training.options["attention_dropout"] == 0
    assert "learning_rate" in {parameter.name for parameter in study.space.parameters}
    paper = study_for(asked, tiny_store, tmp_path, "--recipe", "paper")
    assert paper.base == study_for(asked, tiny_store, tmp_path).base
    with pytest.raises(ValueError, match="there is no --recipe 'tiny'; there are paper, small"):
        Request(space=paper.space, store="", results="results", recipe="tiny")


def test_a_plan_is_printed_without_running(
    asked: list[Study], tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    arguments = ["--data", str(tiny_store), "--results", str(results), *SMALL, "--dry-run"]
    assert main(arguments) == 0
    assert not asked
    printed = capsys.readouterr().out
    assert "stil-awf-simplex" in printed
    assert re.search(r"networks kept \(--keep all\): \d+ at most, [\d.]+ [kM]B\n", printed)
    assert not results.exists()


def test_the_help_has_groups_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    groups = ("what is compared", "on what data", "how it is tuned", "how it trains")
    more = ("where it trains", "where results go", "as before, or only to look")
    for group in (*groups, *more):
        assert f"\n{group}:\n" in shown
    assert shown.count("\n  python -m study.run --") == 3
    assert max(map(len, run.EXAMPLES.splitlines())) <= 80


def test_the_examples_of_the_help_are_accepted_by_the_parser() -> None:
    commands = run.EXAMPLES.replace("\\\n", " ").splitlines()
    flags = [shlex.split(line)[3:] for line in commands if "python -m" in line]
    assert len(flags) == 3
    for one in flags:
        run._parser().parse_args(one)


REFUSED = {
    "the parent folder": ["--name", ".."],
    "a hidden folder": ["--name", ".x"],
    "a flag as name": ["--name=-x"],
    "a flag as name, apart": ["--name", "-x"],
    "no name": ["--name", ""],
    "a path": ["--name", "a/b"],
    "a name of 101 letters": ["--name", "a" * 101],
    "a repeated arm": ["--arms", "stil", "spatial", "stil"],
    "an arm repeated apart": ["--arms", "stil", "--arms", "stil"],
    "a repeated split": ["--split", "1", "1"],
    "an unknown arm": ["--arms", "magic"],
    "an unknown split": ["--split", "17"],
    "no seeds": ["--seeds", "0"],
    "many seeds": ["--seeds", "99999999999"],
    "half a seed": ["--seeds", "1.5"],
    "negative trials": ["--trials", "-1"],
    "no lag": ["--lag", "0"],
    "none at once": ["--at-once", "0"],
    "negative loaders": ["--loader-workers", "-1"],
    "no workers": ["--workers", "0"],
    "nan cores": ["--cpus-per-worker", "nan"],
    "endless cores": ["--cpus-per-worker", "inf"],
    "overflowing cores": ["--cpus-per-worker", "1e400"],
    "no cores": ["--cpus-per-worker", "0"],
    "nan GPUs": ["--gpus-per-worker", "nan"],
    "two GPUs": ["--gpus-per-worker", "2"],
    "nan hours": ["--max-hours", "nan"],
    "endless hours": ["--max-hours", "inf"],
    "no hours": ["--max-hours", "0"],
    "set to nan": ["--set", "learning_rate=nan"],
    "set to JSON's nan": ["--set", "learning_rate=NaN"],
    "set to inf": ["--set", "learning_rate=inf"],
    "set to JSON's inf": ["--set", "learning_rate=Infinity"],
    "set to 1e400": ["--set", "learning_rate=1e400"],
    "λ is nan": ["--set", "fusion_lambda=NaN"],
    "λ is 1e400": ["--set", "fusion_lambda=1e400"],
    "a loss weight is nan": ["--set", "loss_weights.spatial=NaN"],
    "an option is nan": ["--set", "options.dropout=NaN"],
    "a list holds nan": ["--set", "scales=[1,NaN]"],
    "set without a value": ["--set", "learning_rate"],
    "set without a name": ["--set", "=3"],
    "set twice": ["--set", "batch_size=8", "batch_size=16"],
    "epochs twice": ["--set", "epochs=8", "--epochs", "9"],
    "an unknown setting": ["--set", "magic=1"],
    "an unknown option": ["--set", "options.magic=1"],
    "an unknown form of search": ["--search", "learning_rate"],
    "an endless search": ["--search", "learning_rate=0.1..inf"],
    "a search without numbers": ["--search", "learning_rate=a..b"],
    "a search of nan": ["--search", "momentum=0.5,NaN"],
    "a search below zero": ["--search", "learning_rate=-1..1"],
    "an unknown search": ["--search", "magic=1..2"],
    "a search of whole numbers": ["--search", "segments=1..3"],
    "a search of epochs": ["--search", "epochs=3,9"],
    "a search of λ": ["--search", "fusion_lambda=0.1..1"],
    "a negative seed of the search": ["--search-seed", "-1"],
    "an unknown part to vary": ["--vary", "split-carve,magic"],
    "an unknown tuning": ["--tuning", "magic"],
    "a search twice": ["--search", "momentum=0.8,0.9", "momentum=0.5..0.9"],
    "set and searched": ["--set", "momentum=0.5", "--search", "momentum=0.8,0.9"],
    "a search of nothing": ["--tuning", "fixed", "--search", "momentum=0.8,0.9"],
    "an unknown sampler": ["--sampler", "magic"],
    "no such study to begin with": ["--warm-start", "nobody"],
    "no such study to go on with": ["--resume"],
    "another dataset": ["--dataset", "ucf101"],
    "refitted on what is never held out": [
        *("--refit", "--train-on", "all", "--tuning", "fixed", "--arms", "two-stream"),
    ],
    "an unknown list": ["--list", "magic"],
    "an unknown tracker": ["--log", "magic"],
    "no arm to be like": ["--like", "stil"],
    "no study to be like": ["--like", "nobody/stil"],
    "no weights file": ["--weights", "/nowhere/weights.pt"],
    "weights of no stream": ["--weights", "flow=weights.pt"],
    "weights twice": ["--weights", "none", "--weights", "imagenet"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_a_line_before_anything_starts(
    name: str,
    asked: list[Study],
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(tiny_store), "--results", str(tmp_path / "results")]
    small = () if "--weights" in REFUSED[name] else SMALL
    assert main([*arguments, *small, *REFUSED[name]]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("study.run: ")
    assert not asked
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    "flags",
    [
        ["--name", ".."],
        ["--arms", "magic"],
        ["--set", "learning_rate=NaN"],
        ["--set", "options.magic=1"],
        ["--set", "options.dropout=2"],
    ],
)
def test_the_embedded_dataset_is_not_made_for_what_is_refused(
    flags: list[str], asked: list[Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path / "results"), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "prepared", "expected"),
    [
        ((), False, ["Ray starts", "clips are prepared", "Ray ends"]),
        ((), True, ["clips are prepared"]),  # or rather looked at
        (("--dry-run",), False, ["clips are prepared"]),
        (("--address", "auto"), False, ["clips are prepared"]),
    ],
)
def test_rays_processes_start_while_clips_are_prepared(
    flags: Sequence[str],
    prepared: bool,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened = []

    @contextmanager
    def ray_for(request: Request, address: str | None) -> Iterator[list[dict[str, float]]]:
        assert address is None
        happened.append("Ray starts")
        yield []
        happened.append("Ray ends")

    monkeypatch.setattr(run, "ray_for", ray_for)
    monkeypatch.setattr(
        run, "prepare_embedded", lambda path, **_: happened.append("clips are prepared")
    )
    store = tmp_path / "data" / "embedded"
    if prepared:
        store.mkdir(parents=True)
        (store / "manifest.json").touch()
    assert main(["--results", str(tmp_path), *flags]) == 2, "no clips are there after all"
    assert happened == expected


def test_a_ray_that_does_not_start_before_clips_are_prepared_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def ray_for(*_: Any) -> Iterator[None]:
        raise ConnectionError("Ray doesn't start")
        yield

    monkeypatch.setattr(run, "ray_for", ray_for)
    assert main(["--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "study.run: Ray doesn't start\n"
    assert not list(tmp_path.iterdir())


def test_the_settings_of_every_space_are_right_before_there_is_a_store() -> None:
    for name in search_spaces.names():
        request = Request(space=search_spaces.get(name), store="", results="results")
        check_settings(request, "embedded")


@pytest.mark.parametrize("inside", ["", "below"])
def test_results_at_a_file_are_refused(
    inside: str,
    asked: list[Study],
    tiny_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for data in (["--data", str(tiny_store)], []):
        assert main([*data, "--results", str(file / inside)]) == 2
        _, err = capsys.readouterr()
        assert err == f"study.run: --results must be a folder, which is made, got file {file}\n"
    assert not asked
    assert file.read_text() == "kept"


def test_a_store_of_another_dataset_is_named(
    asked: list[Study], tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(tiny_store), "--results", str(tmp_path), "--dataset", "ucf101"]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert f"--data {tiny_store} is a store of 'folder', but --dataset says 'ucf101'" in err
    assert main(["--results", str(tmp_path), "--dataset", "ucf101"]) == 2
    assert "--dataset ucf101 needs --data DIR" in capsys.readouterr().err
    assert not asked
    assert study_for(asked, tiny_store, tmp_path, "--dataset", "folder").name == "stilt-folder"


def test_a_name_of_100_letters_is_taken(
    asked: list[Study], tiny_store: Path, tmp_path: Path
) -> None:
    assert study_for(asked, tiny_store, tmp_path, "--name", "a" * 100).name == "a" * 100
    assert study_for(asked, tiny_store, tmp_path, "--name", "a.b+c-d_1").name == "a.b+c-d_1"


def test_a_study_with_failures_ends_with_status_1_and_a_line_for_each(
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reasons = ["stil on folder: NonFiniteLossError: the loss became nan", "spatial: out of memory"]
    monkeypatch.setattr(run, "run_study", lambda *_, **__: reasons)
    assert main(["--data", str(tiny_store), "--results", str(tmp_path), *SMALL]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"study.run: failed: {reason}" for reason in reasons]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_request_to_end_are_answered_in_a_line(
    number: signal.Signals,
    tiny_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "run_study", lambda *_, **__: signal.raise_signal(number))
    assert main(["--data", str(tiny_store), *SMALL]) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("study.run: interrupted. What finished is kept")


def test_values_are_as_json_has_them() -> None:
    for text in ("1", "1.5", "true", "null", '"1"', "[1, 2]"):
        assert value_of(text) == json.loads(text)
    assert value_of("resnet18") == "resnet18"


def test_lists_and_tuples_are_set_alike_whatever_their_length(
    asked: list[Study], tiny_store: Path, tmp_path: Path
) -> None:
    """As the help types them, once the shell has taken its quotes."""
    (quoted,) = re.findall(r"--set ('scales.*?)\. --list", run.EXAMPLES.replace("\n", " "))
    study = study_for(asked, tiny_store, tmp_path, "--set", *shlex.split(quoted))
    for training in study.plan().trainings.values():
        assert training.options["head_dims"] == (512, 1024)
        assert training.hyperparameters.scales == (1.0, 0.875)
        assert training.hyperparameters.milestones == ()
        assert training.hyperparameters.clip_norm is None


def test_a_list_of_another_kind_is_refused(
    asked: list[Study], tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, reason in (
        ("scales=1", "scales must be a list of numbers, got 1"),
        ('scales=["a"]', "scales must be a list of numbers"),
        ("options.head_dims=[1.5]", "head_dims must be a list of whole numbers"),
        ("scales=(1,0.875)", "scales must be a list of numbers, got '(1,0.875)'"),
    ):
        where = ["--data", str(tiny_store), "--results", str(tmp_path)]
        assert main([*where, *SMALL, "--set", text]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize(("what", "there"), [("arms", "stilt-vgg19"), ("options", "batch_size")])
def test_what_a_space_has_is_listed_without_data(
    what: str, there: str, asked: list[Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--list", what, "--results", str(tmp_path / "results")]) == 0
    assert there in capsys.readouterr().out
    assert not asked
    assert not list(tmp_path.iterdir())


def test_a_list_is_of_the_dataset_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for dataset, backbone in (("ucf101", "resnet50"), ("embedded", "small")):
        assert main(["--list", "options", "--dataset", dataset]) == 0
        assert f"options.backbone = {backbone} |" in capsys.readouterr().out


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    asked: list[Study],
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("study.tracking.importlib.util.find_spec", lambda name: None)
    where = ["--data", str(tiny_store), "--results", str(tmp_path / "results")]
    assert main([*where, *SMALL, "--log", "mlflow", "wandb"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("study.run: --log mlflow needs its client")
    assert "pip install 'two-stream-study[mlflow,wandb]'" in err
    assert not asked
