import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from benchmarks import search as benchmark
from benchmarks.search import Features, stopped_by_asha
from models.stilt import Stilt
from study.training.evaluation import score
from tests.test_conduct import study_of


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_a_trial_is_stopped_where_ray_tune_stops_it(eta):
    rng = random.Random(eta)
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="top1",
        mode="max",
        max_t=100,
        grace_period=1,
        reduction_factor=eta,
    )
    recorded: list[float] = []
    stops = 0
    for number in range(40):
        value = rng.choice((0.25, 0.5, 0.75, rng.random()))  # ties too
        trial = Trial("stub", stub=True, trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        decision = scheduler.on_trial_result(None, trial, {"epoch": 1, "top1": value})

        stopped = stopped_by_asha(value, recorded, eta)
        assert stopped == (decision == TrialScheduler.STOP)
        recorded.append(value)
        stops += stopped
    assert 0 < stops < 40


@pytest.fixture
def study(tiny_store, tmp_path):
    return study_of(tiny_store, tmp_path, changes={"epochs": 2})


def stil_training(study):
    return study.trial((study.space.arm("stil"),), study.targets[0], {})


def stilt_of(study, training):
    model = benchmark.new_model(study, training)
    assert isinstance(model, Stilt)
    return model


def test_kept_features_have_the_scores_of_their_clips(study):
    training = stil_training(study)
    model = stilt_of(study, training)
    _, clips = benchmark.parts_of(study, training, model, every=1)
    expected, found = score(model, clips), Features.of(model, clips).scores(model)
    assert found.videos == expected.videos
    assert found.labels.tolist() == expected.labels.tolist()
    for stream, scores in expected.scores.items():
        np.testing.assert_allclose(found.scores[stream], scores, atol=1e-6)


def test_frozen_backbones_stay_and_what_stands_on_them_learns(study, monkeypatch):
    training = stil_training(study)
    start, model = (stilt_of(study, training) for _ in range(2))
    monkeypatch.setattr(benchmark, "new_model", lambda study, training: model)
    fewer = replace(training.hyperparameters, learning_rate=0.1, epochs=20)
    epochs = []
    benchmark.train_frozen(
        study,
        replace(training, hyperparameters=fewer),
        1,
        lambda epoch, scores: epochs.append((epoch, scores)),
    )
    assert [epoch for epoch, _ in epochs] == list(range(1, 21))
    for (name, before), after in zip(start.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(before, after) == name.startswith("backbones."), name

    def loss(scores):
        own = np.mean(list(scores.scores.values()), 0)[range(len(scores.labels)), scores.labels]
        return -np.log(own).mean()

    clips = Features.of(start, benchmark.parts_of(study, training, start, 1)[0])
    assert loss(clips.scores(model)) < loss(clips.scores(start))


def test_a_recording_that_was_killed_goes_on_where_it_was(study, tmp_path, monkeypatch):
    file = tmp_path / "curves.csv"
    file.touch()  # as one that was killed before its first line leaves it
    ran: list[tuple[object, float]] = []
    killed: list[tuple[object, float]] = []

    def curve_of(study, setup, values):
        ran.append((setup, values["learning_rate"]))
        if len(ran) == 7 and not killed:
            raise KeyboardInterrupt
        return 1.5, [0.25, values["learning_rate"]]

    monkeypatch.setattr(benchmark, "FEWER_CONFIGURATIONS", 2)
    monkeypatch.setattr(benchmark, "curve_of", curve_of)
    with pytest.raises(KeyboardInterrupt):
        benchmark.record(file, 3, study)
    killed.append(ran.pop())
    before = file.read_text()
    benchmark.record(file, 3, study)

    assert file.read_text().startswith(before)
    assert ran[6:7] == killed
    assert len(set(ran)) == len(ran) == 2 * len(benchmark.SETUPS) + 1
    curves = benchmark.read_curves(file)
    rates = [values["learning_rate"] for values in benchmark.design(3)]
    np.testing.assert_allclose(curves["full"].top1[:, 1], rates, atol=1e-4)
    assert {len(one.points) for name, one in curves.items() if name != "full"} == {2}
