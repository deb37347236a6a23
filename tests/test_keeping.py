"""Which networks a study keeps, without training any."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from study.job import build_model
from study.keeping import most_kept
from study.networks import kept_networks, read_network
from study.request import Study, check_request
from study.results.store import ResultStore
from study.training.checkpoint import save_checkpoint
from tests.test_conduct import Runner, study_of

ARMS = ("spatial", "temporal", "two-stream", "stil", "stil-early")


def done(store: Path, results: Path, **request: Any) -> tuple[Study, Runner]:
    """A study that is done, with a checkpoint of each training."""
    study = study_of(store, results, tuning="fixed", trials=0, seeds=3, arms=ARMS, **request)
    runner = Runner(study, 2)
    runner.run()
    for identity in study.plan().trainings:
        state = {"history": [{}] * 9, "model": {"weight": torch.ones(2)}}
        save_checkpoint(Path(study.checkpoints, f"{identity}.pt"), state)
    return study, runner


def test_all_networks_are_kept_and_take_their_checkpoints_places(
    tiny_store: Path, tmp_path: Path
) -> None:
    study, runner = done(tiny_store, tmp_path)
    runner.conductor.keep_networks()
    results, plan = ResultStore(tmp_path), study.plan()
    assert kept_networks(results).keys() == plan.trainings.keys()
    assert not list(Path(study.checkpoints).iterdir())
    assert most_kept(study, plan)[0] == len(plan.trainings) == 6
    for identity, training in plan.trainings.items():
        network = read_network(results, identity)
        assert network is not None
        assert network.hyperparameters == training.hyperparameters
        assert network.classes == study.store.annotations.classes
    runner.conductor.keep_networks()
    assert kept_networks(results).keys() == plan.trainings.keys(), "and stay"


def test_a_network_that_another_study_is_to_keep_stays_when_the_one_that_trained_it_ends(
    tiny_store: Path, tmp_path: Path
) -> None:
    study, runner = done(tiny_store, tmp_path, keep="none")
    other = Runner(check_request(replace(study.request, name="other", keep="all")), 2)
    other.run()
    assert not other.ran, "all is finished"
    runner.conductor.keep_networks()
    assert len(list(Path(study.checkpoints).glob("*.pt"))) == len(study.plan().trainings)
    other.conductor.keep_networks()
    assert kept_networks(ResultStore(tmp_path)).keys() == study.plan().trainings.keys()
    assert not list(Path(study.checkpoints).iterdir())


def test_the_best_on_validation_of_each_arm_is_kept(tiny_store: Path, tmp_path: Path) -> None:
    study, runner = done(tiny_store, tmp_path, keep="best")
    runner.conductor.keep_networks()
    results = ResultStore(tmp_path)
    expected = set()
    for arm in ARMS:
        lines = results.read("rows", arm=arm, part="validation").to_pylist()
        best = max(lines, key=lambda line: (line["top1"], -line["seed"]))
        expected.add(best["training_id"])
    assert kept_networks(results).keys() == expected
    assert most_kept(study, study.plan())[0] >= len(expected)
    assert not list(Path(study.checkpoints).iterdir())


def test_with_none_nothing_is_kept_but_what_was(tiny_store: Path, tmp_path: Path) -> None:
    study, runner = done(tiny_store, tmp_path, keep="none")
    runner.conductor.keep_networks()
    assert not kept_networks(ResultStore(tmp_path))
    assert not list(Path(study.checkpoints).iterdir())
    assert most_kept(study, study.plan()) == (0, 0)


def test_networks_that_are_gone_are_counted(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, runner = done(tiny_store, tmp_path)
    for path in list(Path(study.checkpoints).iterdir())[:4]:
        path.unlink()
    (path, _) = Path(study.checkpoints).iterdir()
    path.write_bytes(b"damaged")
    runner.console.quiet = False
    runner.conductor.keep_networks()
    assert "5 networks can't be kept" in capsys.readouterr().out
    assert len(kept_networks(ResultStore(tmp_path))) == 1


def test_the_plan_says_how_large_they_are(tiny_store: Path, tmp_path: Path) -> None:
    study = study_of(tiny_store, tmp_path, tuning="fixed", trials=0, seeds=3, arms=("stil",))
    networks, size = most_kept(study, study.plan())
    job = study.job(next(iter(study.plan().trainings.values())), until=9)
    net = build_model(job, num_classes=len(study.store.annotations.classes))
    bytes_ = sum(value.nbytes for value in net.state_dict().values())
    assert (networks, size) == (3, 3 * bytes_)
