"""Trainings that start from others, really trained on a few rendered clips."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from study.conduct import Conductor
from study.data.store.clip_store import ClipStore
from study.job import Job, run_job
from study.networks import kept_networks, read_network
from study.plan import Training
from study.request import Study
from study.results.rows import load_scores
from study.results.status import read_statuses
from study.results.store import ResultStore
from study.searches import searches_of
from study.terminal import Terminal
from tests.integration.conftest import run_here
from tests.staged_study import FUSED, SPATIAL, TOWERS, merged_classes, space_of, staged_study
from tests.test_conduct import KilledError, Runner, outcome


def tensors(results: Path, training: Training) -> dict[str, torch.Tensor]:
    network = read_network(ResultStore(str(results)), training.training_id)
    assert network is not None
    return dict(network.state)


def towers_and_fused(study: Study) -> tuple[Training, Training]:
    towers, fused = study.plan().trainings.values()
    return towers, fused


def test_towers_are_trained_once_stay_as_they_are_and_are_kept_with_what_started_from_them(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = staged_study(tiny_store, tmp_path, TOWERS, SPATIAL, FUSED)
    towers, fused = towers_and_fused(study)
    conductor = run_here(study)
    assert not conductor.failures
    conductor.keep_networks()
    results = ResultStore(str(tmp_path))
    assert {row["arm"] for row in results.read("rows").to_pylist()} == {
        "towers",
        "spatial",
        "fused",
    }
    assert kept_networks(results).keys() == {towers.training_id, fused.training_id}
    trained, own = tensors(tmp_path, towers), tensors(tmp_path, fused)
    frozen = [name for name in own if name.startswith("backbones.")]
    assert all(torch.equal(own[name], trained[name]) for name in frozen)
    assert not torch.equal(own["heads.spatial.0.weight"], trained["heads.spatial.0.weight"])
    (line,) = results.read("trainings", keys=[fused.training_id]).to_pylist()
    assert line["notes"] == "starts from a training of two_stream"
    assert set(json.loads(line["starts_from"])) == {"spatial", "temporal"}
    assert not list(Path(study.checkpoints).iterdir())


def test_killed_and_resumed_it_is_the_same_to_the_last_bit_and_nothing_stays_with_keep_none(
    tiny_store: Path, tmp_path: Path
) -> None:
    scores = []
    for name in ("in one go", "killed"):
        study = staged_study(tiny_store, tmp_path / name, FUSED, keep="none")
        towers, fused = towers_and_fused(study)
        if name == "killed":  # within either stage
            run_job(study.job(towers, until=1))
            run_job(study.job(towers, until=2, network=True))
            sources = dict.fromkeys(fused.starts, towers.training_id)
            run_job(study.job(fused, until=1, sources=sources))
        conductor = run_here(study)
        assert not conductor.failures
        results = ResultStore(str(tmp_path / name))
        scores.append(load_scores(results, fused.scoring_id)["test"].scores)
        conductor.keep_networks()
        assert not kept_networks(results)
        assert not list(Path(study.checkpoints).iterdir())
        assert not any((study.folder / "claims").iterdir())
    for stream, expected in scores[0].items():
        assert (scores[1][stream] == expected).all()


def test_a_first_stage_whose_network_is_gone_is_trained_again(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = staged_study(tiny_store, tmp_path, TOWERS, keep="none")
    conductor = run_here(study)
    conductor.keep_networks()
    larger = staged_study(tiny_store, tmp_path, TOWERS, FUSED, keep="none")
    assert not run_here(larger).failures
    lines = ResultStore(str(tmp_path)).read("trainings").to_pylist()
    assert {line["model"]: line["status"] for line in lines} == {
        "two_stream": "finished",
        "conv_fusion": "finished",
    }
    (again,) = [line["notes"] for line in lines if line["model"] == "two_stream"]
    assert again.startswith("trained again")


def test_it_is_scored_in_other_views_without_what_it_started_from(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = staged_study(tiny_store, tmp_path, FUSED)
    towers, fused = towers_and_fused(study)
    run_here(study)
    (Path(study.checkpoints) / f"{towers.training_id}.pt").unlink()
    other = replace(fused, hyperparameters=replace(fused.hyperparameters, test_crops="three"))
    run_job(study.job(other, until=2, parts=("test",)))
    made = load_scores(ResultStore(str(tmp_path)), other.scoring_id)
    assert set(made) == {"test"}
    (Path(study.checkpoints) / f"{fused.training_id}.pt").unlink()
    third = replace(fused, hyperparameters=replace(fused.hyperparameters, test_clips=2))
    with pytest.raises(FileNotFoundError, match=f"of training {fused.training_id} is gone"):
        run_job(study.job(third, until=2, parts=("test",)))


def test_a_missing_network_is_named(tiny_store: Path, tmp_path: Path) -> None:
    study = staged_study(tiny_store, tmp_path, FUSED)
    towers, fused = towers_and_fused(study)
    sources = dict.fromkeys(fused.starts, towers.training_id)
    with pytest.raises(FileNotFoundError, match=f"of training {towers.training_id} is gone"):
        run_job(study.job(fused, until=2, sources=sources))


def test_one_pretraining_serves_all_seeds_and_arms_and_other_classes_have_a_new_last_layer(
    tiny_store: Path, tmp_path: Path
) -> None:
    first = merged_classes(tiny_store, tmp_path / "first")
    study = staged_study(
        tiny_store,
        tmp_path,
        TOWERS,
        FUSED,
        seeds=2,
        pretrain_store=first,
        pretrain_changes={"epochs": 1},
    )
    pretrained, *others = study.plan().trainings.values()
    assert len(others) == 4, "towers and what is fused from them, with two seeds"
    assert pretrained.hyperparameters.epochs == 1
    assert pretrained.target.store_fingerprint == ClipStore.open(first).fingerprint
    (line,) = [line for line in study.starts if "on folder" in line and "spatial" in line][:1]
    assert "left out heads.spatial.3.weight, heads.spatial.3.bias (of other classes)" in line

    conductor = run_here(study)
    assert not conductor.failures
    ran = ResultStore(str(tmp_path)).read("trainings").to_pylist()
    assert sorted(line["model"] for line in ran) == sorted(
        ["two_stream", "conv_fusion"] * 2 + ["two_stream"]
    )
    conductor.keep_networks()
    network = read_network(ResultStore(str(tmp_path)), pretrained.training_id)
    assert network is not None
    assert network.classes == ("first", "second")


def test_what_cannot_start_is_refused_before_anything_runs(
    tiny_store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="is the clip store of the study itself; name another"):
        staged_study(tiny_store, tmp_path, TOWERS, pretrain_store=tiny_store)
    with pytest.raises(ValueError, match="--pretrain-set needs --pretrain-data"):
        staged_study(tiny_store, tmp_path, TOWERS, pretrain_changes={"epochs": 1})
    first = merged_classes(tiny_store, tmp_path / "first")
    with pytest.raises(ValueError, match=r"--pretrain-set options\.x changes none of the arms"):
        staged_study(
            tiny_store, tmp_path, TOWERS, pretrain_store=first, pretrain_changes={"options.x": 1}
        )
    short = {"flow_length": 2}
    with pytest.raises(ValueError, match=r"stage1.0.weight is of another shape: \(24, 4, 3, 3\)"):
        staged_study(tiny_store, tmp_path, TOWERS, pretrain_store=first, pretrain_changes=short)
    with pytest.raises(ValueError, match=r"fused=…: the arm starts from .* of towers; give"):
        staged_study(tiny_store, tmp_path, FUSED, weights={"fused": "none"})


def test_a_searched_option_must_let_the_whole_network_start(
    tiny_store: Path, tmp_path: Path
) -> None:
    space = space_of(replace(FUSED, starts_from={}), layers=(("stage3",), ("stage4",)))
    searched: dict[str, Any] = {"trials": 2, "tuning": "net", "space": space}
    searches_of(staged_study(tiny_store, tmp_path, **searched))
    first = merged_classes(tiny_store, tmp_path / "first")
    study = staged_study(tiny_store, tmp_path, pretrain_store=first, **searched)
    with pytest.raises(ValueError, match=r"with .*stage3.* fusions.*; give one value with --set"):
        searches_of(study)


def test_trials_start_from_towers_of_a_seed_that_nothing_else_has(
    tiny_store: Path, tmp_path: Path
) -> None:
    space = space_of(TOWERS, FUSED, layers=(("stage3",), ("stage4",)))
    study = staged_study(tiny_store, tmp_path, trials=3, tuning="net", space=space)
    (one,) = searches_of(study).values()
    trials = [one.make_training({"options.layers": value}) for value in ("stage3", "stage4")]
    seeds = {trial.starts_from["spatial"].seed for trial in trials}
    assert len({trial.training_id for trial in trials}) == 2
    assert len({trial.starts["spatial"] for trial in trials}) == 1, "towers search nothing"
    assert not seeds & {0, 1, *(training.seed for training in study.plan().trainings.values())}


class WatchedRunner(Runner):
    """Runs nothing before what it starts from is stored."""

    def end(self, job: Job) -> None:
        assert job.sources.keys() == job.training.starts.keys()
        assert all(
            (Path(self.study.checkpoints) / f"{one}.pt").exists() for one in job.sources.values()
        )
        super().end(job)


def test_places_order_and_kills_change_nothing(tiny_store: Path, tmp_path: Path) -> None:
    space = space_of(TOWERS, FUSED, layers=(("stage3",), ("stage4",)))
    expected = None
    for number, places in enumerate((1, 2, 64)):
        results = tmp_path / f"{number}"
        asked: dict[str, Any] = {"trials": 3, "tuning": "net", "seeds": 2, "keep": "none"}
        study = staged_study(tiny_store, results, space=space, changes={"epochs": 9}, **asked)
        runner = WatchedRunner(study, places, seed=number)
        if places == 2:
            for kill_after in (1, 2):
                with pytest.raises(KilledError):
                    runner.run(kill_after=kill_after)
        conductor = runner.run()
        assert not conductor.failures
        assert max(runner.ran.values()) == 1, "no job runs twice"
        expected = expected or outcome(results)
        assert outcome(results) == expected
        conductor.keep_networks()
        assert not list(Path(study.checkpoints).iterdir()), (
            "nor does anything that trials started from"
        )
    assert expected is not None
    assert len(expected["rows"]) == 2 * 2 * 2


def test_the_status_says_what_trainings_wait_for(tiny_store: Path, tmp_path: Path) -> None:
    study = staged_study(tiny_store, tmp_path, TOWERS, FUSED, seeds=2)
    with Terminal(Console(quiet=True)).at_work() as display:
        Conductor(study, {}, display)
    (status,) = read_statuses(ResultStore(str(tmp_path)))
    (line,) = status.waits
    assert line.startswith("2 trainings wait for what they start from: two_stream (backbone small)")
    assert line.count("seed") == 2
