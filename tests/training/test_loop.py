import contextlib
import copy
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from models import ModelOutput, VideoModel, create_model
from study.data.clips.dataset import ClipDataset, make_loader
from study.data.clips.transforms import model_inputs
from study.scores import Scores
from study.training import loop
from study.training.checkpoint import load_checkpoint, save_checkpoint
from study.training.clips import clip_settings
from study.training.evaluation import score
from study.training.hyperparameters import Hyperparameters
from study.training.interruption import EPOCHS_SHARE_SECONDS, CheckpointTimes
from study.training.loop import (
    EpochReport,
    NonFiniteLossError,
    class_weights,
    clip_gradients,
    learning_rate,
    mix_clips,
    train,
    video_losses,
)
from tests.memory_store import make_store

BASE = Hyperparameters(
    learning_rate=0.05,
    batch_size=5,
    epochs=3,
    segments=2,
    flow_length=2,
    crop_size=20,
    schedule="cosine",
    loss_weights={"temporal": 0.5},
)
VIDEOS = 13  # batches of 5, 5 and 3


class _Auxiliary(VideoModel):
    """Linear classifiers on channel means, with an auxiliary classifier and a penalty."""

    def __init__(self, *, fails_at: float = math.inf) -> None:
        super().__init__(num_classes=4, flow_length=2)
        self.heads = nn.ModuleDict({"spatial": nn.Linear(3, 4), "temporal": nn.Linear(4, 4)})
        self.extra = nn.Linear(3, 4)
        self.fails_at = fails_at
        self.calls = 0

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        assert rgb is not None
        assert flow is not None
        self.calls += self.training
        features = {"spatial": rgb.mean((1, 3, 4)), "temporal": flow.mean((1, 3, 4))}
        logits = {name: self.heads[name](x) for name, x in features.items()}
        if self.calls >= self.fails_at:
            logits["temporal"] = logits["temporal"] * math.nan
        return ModelOutput(
            logits=logits,
            features=features,
            auxiliary_logits={"extra": self.extra(features["spatial"])},
            auxiliary_losses={"penalty": logits["spatial"].square().mean(1)},
        )


def _stilt(seed: int = 0, *, dropout: float = 0.0, **options: Any) -> VideoModel:
    torch.manual_seed(seed)
    settings = {
        "backbone": "small",
        "flow_length": 2,
        "attention_dim": 8,
        "head_dims": (12, 10),
        "attention_dropout": dropout,
        "dropout": dropout,
        **options,
    }
    return create_model("stilt", num_classes=4, **settings)


def _auxiliary(**options: Any) -> _Auxiliary:
    torch.manual_seed(0)
    return _Auxiliary(**options)


def _data(model: VideoModel, videos: int = VIDEOS, *, augment: bool = True) -> ClipDataset:
    store = make_store(videos=videos)
    return ClipDataset(
        store,
        store.videos,
        inputs=model.inputs,
        clip=clip_settings(BASE),
        augment=augment,
        seed=1,
    )


def _train(model: VideoModel, change: dict[str, Any] | None = None, **options: Any) -> Any:
    settings = {"hyperparameters": replace(BASE, **(change or {})), "seed": 1, **options}
    data = settings.pop("data", None) or _data(model)
    return train(model, data, settings.pop("validation", None), **settings)


def _same(history: list[EpochReport], other: list[EpochReport]) -> bool:
    """Equal but for wall times and how the batch was divided."""
    plain = [
        [replace(e, seconds=0, clips_per_second=0, halved=False) for e in h]
        for h in (history, other)
    ]
    return plain[0] == plain[1]


def _identical(model: nn.Module, other: nn.Module) -> bool:
    states = model.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _assert_close(model: nn.Module, other: nn.Module, **tolerance: Any) -> None:
    torch.testing.assert_close(model.state_dict(), other.state_dict(), **tolerance)


def _rates(change: dict[str, Any], steps_per_epoch: int) -> list[float]:
    hyperparameters = replace(BASE, epochs=10, **change)
    return [
        learning_rate(hyperparameters, step, steps_per_epoch)
        for step in range(10 * steps_per_epoch)
    ]


def _torch_rates(steps: int, schedule: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=BASE.learning_rate)
    scheduler = schedule(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_step_schedule_is_torchs_multi_step() -> None:
    ours = _rates({"schedule": "step", "milestones": (0.4, 0.7, 0.9), "gamma": 0.5}, 7)
    theirs = _torch_rates(
        70, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [28, 49, 63], gamma=0.5)
    )
    assert ours == pytest.approx(theirs)


def test_the_cosine_schedule_after_warm_up_is_torchs() -> None:
    def warmed(optimizer: torch.optim.Optimizer) -> Any:
        schedulers = torch.optim.lr_scheduler
        return schedulers.SequentialLR(
            optimizer,
            [
                schedulers.LinearLR(optimizer, 1 / 14, total_iters=13),
                schedulers.CosineAnnealingLR(optimizer, 70 - 14),
            ],
            [14],
        )

    ours = _rates({"schedule": "cosine", "warmup_epochs": 2}, 7)
    assert ours == pytest.approx(_torch_rates(70, warmed))


def test_a_warm_up_of_part_of_an_epoch_ends_at_the_top_rate() -> None:
    rates = _rates({"schedule": "constant", "warmup_epochs": 0.5}, 5)
    assert rates == pytest.approx([0.02, 0.04, *[0.05] * 48])
    assert _rates({"schedule": "constant"}, 5) == [0.05] * 50


def test_one_step_is_sgd_on_the_weighted_sum_of_all_losses() -> None:
    weights = {"spatial": 0.5, "extra": 2.0, "penalty": 3.0}  # temporal: 1
    model = _auxiliary()
    expected = copy.deepcopy(model)
    data = _data(model, 6)
    data.set_epoch(0)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    items = torch.utils.data.default_collate([data[i] for i in range(6)])
    output = expected(**model_inputs(items, torch.device("cpu")))
    labels = items["label"]
    spatial, temporal, extra = (
        F.cross_entropy(logits, labels)
        for logits in (*output.logits.values(), output.auxiliary_logits["extra"])
    )
    penalty = output.auxiliary_losses["penalty"].mean()
    total = 0.5 * spatial + temporal + 2 * extra + 3 * penalty
    total.backward()
    optimizer.step()

    [epoch] = _train(
        model,
        {
            "epochs": 1, "batch_size": 6, "learning_rate": 0.1, "weight_decay": 0.01,
            "loss_weights": weights, "schedule": "constant",
        },
        data=data,
    )  # fmt: skip
    _assert_close(model, expected)
    losses = {"spatial": spatial, "temporal": temporal, "extra": extra, "penalty": penalty}
    assert epoch.losses == pytest.approx({name: one.item() for name, one in losses.items()})
    assert epoch.train_loss == pytest.approx(total.item())
    assert (epoch.epoch, epoch.lr) == (1, 0.1)


EXTRAS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3},
    "smoothing": {"label_smoothing": 0.2},
    "mixup and cutmix": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
    "balanced loss": {"class_balance": "loss"},
    "balanced sampling": {"class_balance": "sampling"},
    "average": {"ema_decay": 0.7},
}
ALL_EXTRAS = {
    **EXTRAS["adamw"], **EXTRAS["smoothing"], **EXTRAS["mixup and cutmix"],
    **EXTRAS["balanced sampling"], **EXTRAS["average"],
}  # fmt: skip


def _first_batch(model: VideoModel, videos: int) -> tuple[ClipDataset, dict[str, Tensor], Tensor]:
    """The data of one batch of all videos, its inputs and its labels in the first epoch."""
    data = _data(model, videos)
    data.set_epoch(0)
    items = torch.utils.data.default_collate([data[i] for i in range(videos)])
    return data, model_inputs(items, torch.device("cpu")), items["label"]


def test_two_steps_are_adamw_and_the_result_their_moving_average() -> None:
    """On a smoothed loss that is weighted by class."""
    model, videos = _auxiliary(), 6
    expected = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01, weight_decay=0.1)
    data, _, _ = _first_batch(model, videos)
    weights = torch.tensor([6 / (4 * 2), 6 / (4 * 2), 6 / 4, 6 / 4])  # classes 0 1 2 3 0 1
    states = []
    for epoch in range(2):
        data.set_epoch(epoch)
        items = torch.utils.data.default_collate([data[i] for i in range(videos)])
        output = expected(**model_inputs(items, torch.device("cpu")))
        target = 0.7 * F.one_hot(items["label"], 4) + 0.3 / 4
        total = output.auxiliary_losses["penalty"].mean()
        for logits in (*output.logits.values(), *output.auxiliary_logits.values()):
            total = total - (target * weights * logits.log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        states.append(copy.deepcopy(expected.state_dict()))
    change = {
        "optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1, "schedule": "constant",
        "epochs": 2, "batch_size": videos, "label_smoothing": 0.3, "class_balance": "loss",
        "ema_decay": 0.8, "loss_weights": {},
    }  # fmt: skip
    _train(model, change, data=data)
    average = {name: 0.8 * first + 0.2 * states[1][name] for name, first in states[0].items()}
    torch.testing.assert_close(dict(model.state_dict()), average)


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_streams_frames_and_labels_are_mixed_by_the_same_share(kind: str) -> None:
    model = _stilt()
    values = torch.arange(5.0)
    inputs = {
        name: torch.ones_like(x) * values[:, None, None, None, None]
        for name, x in model.example_inputs(batch_size=5, frames=2, size=20).items()
    }
    change: dict[str, Any] = {kind: 1.0}
    hyperparameters = replace(BASE, **change)
    mixed, shares = mix_clips(inputs, torch.arange(5), hyperparameters, num_classes=5, seed=3)
    own = shares.diagonal()
    assert 0 < own[0] < 1
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    for x in mixed.values():
        # A clip's mean is its share of its own value and the rest of the other's.
        torch.testing.assert_close(
            x.mean((2, 3, 4)), (shares @ torch.arange(5.0))[:, None].expand(5, 2)
        )
    if kind == "cutmix_alpha":
        assert set(mixed["rgb"][1].unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(mixed["rgb"][:, 0, 0], mixed["flow"][:, 1, 3])
    alone, same = mix_clips(
        {"flow": inputs["flow"]}, torch.arange(5), hyperparameters, num_classes=5, seed=3
    )
    assert torch.equal(alone["flow"], mixed["flow"])
    assert torch.equal(same, shares)


def test_the_loss_of_a_mixed_label_is_the_sum_of_its_shares() -> None:
    model = _auxiliary()
    _, inputs, labels = _first_batch(model, 4)
    output, other = model(**inputs), labels.roll(1)
    shares = 0.3 * F.one_hot(labels, 4) + 0.7 * F.one_hot(other, 4)
    mixed, first, second = (video_losses(output, x) for x in (shares, labels, other))
    for name in ("spatial", "temporal", "extra"):
        torch.testing.assert_close(mixed[name], 0.3 * first[name] + 0.7 * second[name])


def test_classes_weigh_the_same_and_a_video_one_on_average() -> None:
    data = _data(_auxiliary(), 9)  # three of class 0, two of each other
    weights = class_weights(data, 5)
    labels = torch.tensor([video.label for video in data.videos])
    assert weights[labels].mean() == pytest.approx(4 / 5)  # the fifth class has no video
    totals = torch.bincount(labels, weights=weights[labels], minlength=5)
    torch.testing.assert_close(totals, torch.tensor([9 / 5] * 4 + [0.0]))


def test_balanced_sampling_draws_classes_evenly_and_no_clip_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _auxiliary()
    data = _data(model, 40)
    data.videos = (*[video for video in data.videos if video.label < 2], data.videos[2])
    taken: list[int] = []
    batch = data.batch

    def watched(indices: Sequence[int], **options: Any) -> dict[str, Tensor]:
        taken.extend(indices)
        return batch(indices, **options)

    monkeypatch.setattr(data, "batch", watched)
    _train(model, {"class_balance": "sampling", "epochs": 20}, data=data)
    labels = np.array([data.videos[index % 21].label for index in taken])
    assert len(taken) == 20 * 21
    # Each class has a third of 420 draws, so 140 ± 9.7.
    assert np.bincount(labels).tolist() == pytest.approx([140] * 3, abs=40)
    assert all(len(set(taken[at : at + 21])) == 21 for at in range(0, 420, 21))
    data.set_epoch(0)
    once, twice = data[20], data[20 + 21]
    assert once["label"] == twice["label"]
    assert not torch.equal(once["rgb"], twice["rgb"])


@pytest.mark.parametrize("name", EXTRAS)
def test_each_extra_changes_the_result(name: str) -> None:
    plain, other = _auxiliary(), _auxiliary()
    _train(plain, {"epochs": 1})
    _train(other, {"epochs": 1, **EXTRAS[name]})
    assert not _identical(plain, other)


def test_validation_and_the_returned_network_are_of_the_moving_average() -> None:
    seen: dict[int, Scores] = {}
    model = _stilt()
    data = _data(model, augment=False)
    _train(model, {"ema_decay": 0.9}, validation=data, validated=seen.__setitem__)
    scores = score(model, data, batch_size=BASE.batch_size).scores["spatial"]
    np.testing.assert_array_equal(scores, seen[3].scores["spatial"])
    plain = _stilt()
    _train(plain)
    assert not _identical(plain, model)


def test_an_epoch_takes_every_video_once_in_an_order_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _auxiliary()
    data = _data(model)
    taken: list[list[int]] = []
    read = data.batch

    def watched(indices: Sequence[int], **options: Any) -> dict[str, Tensor]:
        taken[-1].extend(indices)
        return read(indices, **options)

    monkeypatch.setattr(data, "batch", watched)
    taken.append([])
    _train(model, data=data, report=lambda epoch: taken.append([]))
    assert [sorted(epoch) for epoch in taken[:3]] == [list(range(VIDEOS))] * 3
    assert taken[0] != taken[1] != taken[2]


def test_the_mean_loss_counts_each_video_of_a_partial_batch_once() -> None:
    model = _auxiliary()
    data = _data(model)
    data.set_epoch(0)
    items = torch.utils.data.default_collate([data[i] for i in range(VIDEOS)])
    logits = model(**model_inputs(items, torch.device("cpu"))).logits["spatial"]
    expected = F.cross_entropy(logits, items["label"]).item()
    [epoch] = _train(model, {"epochs": 1, "learning_rate": 1e-12}, data=data)
    assert epoch.losses["spatial"] == pytest.approx(expected)


@pytest.mark.parametrize("accumulation_steps", [2, 3, 5])
def test_accumulation_gives_the_result_of_the_whole_batch(accumulation_steps: int) -> None:
    whole, parts = _stilt(), _stilt()
    expected = _train(whole)
    history = _train(parts, {"accumulation_steps": accumulation_steps})
    _assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    assert history[-1].train_loss == pytest.approx(expected[-1].train_loss, rel=1e-4)


def test_activation_checkpointing_changes_no_bit_dropout_included() -> None:
    plain, ours = _stilt(dropout=0.5), _stilt(dropout=0.5)
    expected = _train(plain, validation=_data(plain, augment=False))
    data = _data(ours, augment=False)
    assert _same(_train(ours, validation=data, activation_checkpointing=True), expected)
    assert _identical(plain, ours)


def test_activation_checkpointing_is_asked_for_by_hyperparameter_too() -> None:
    plain, ours = _stilt(dropout=0.5), _stilt(dropout=0.5)
    _train(plain, {"epochs": 1})
    _train(ours, {"epochs": 1, "activation_checkpointing": True})
    assert "forward_stage" in vars(ours.get_submodule("backbones.spatial"))
    assert _identical(plain, ours)


def test_activation_checkpointing_with_compile_is_refused() -> None:
    with pytest.raises(ValueError, match="switch one of them off"):
        _train(_auxiliary(), compile=True, activation_checkpointing=True)


class _Hungry(nn.Module):
    """Has batch statistics, and no memory for more than a number of videos from a call on."""

    def __init__(self, most: int, *, from_call: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.most = most
        self.from_call = from_call
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            if self.calls > self.from_call and len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
        frames: Tensor = self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return frames


class _HungryModel(_Auxiliary):
    def __init__(self, most: int, **options: Any) -> None:
        super().__init__()
        self.entrance = _Hungry(most, **options)

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        assert rgb is not None
        return super().forward(self.entrance(rgb), flow)


def _hungry(most: int = 99, **options: Any) -> _HungryModel:
    torch.manual_seed(0)
    return _HungryModel(most, **options)


@pytest.mark.parametrize("from_call", [0, 1])  # in the first step, and after an update
def test_out_of_memory_trains_as_if_started_with_half_the_micro_batch(
    from_call: int, tmp_path: Path
) -> None:
    half, hungry = _hungry(), _hungry(3, from_call=from_call)
    expected = _train(half, {"accumulation_steps": 2}, validation=_data(half, augment=False))
    with pytest.warns(RuntimeWarning, match=r"out of memory; .* accumulation_steps=2"):
        history = _train(
            hungry,
            validation=_data(hungry, augment=False),
            checkpoint=tmp_path / "one.pt",
            until=1,
        )
    assert _same(history, expected[:1])
    # Going on from the checkpoint it stays so, where there would be memory for more as well.
    again = _hungry()
    history = _train(again, validation=_data(again, augment=False), checkpoint=tmp_path / "one.pt")
    assert _same(history, expected)
    assert _identical(again, half)


@pytest.mark.filterwarnings("ignore:CUDA out of memory")
@pytest.mark.parametrize("change", [{}, {"accumulation_steps": 5}])
def test_out_of_memory_is_met_once_and_only_where_videos_can_be_divided(
    change: dict[str, Any],
) -> None:
    model = _hungry(0)
    with pytest.raises(torch.OutOfMemoryError):
        _train(model, change)
    assert model.entrance.calls == (1 if change else 2)


@pytest.mark.filterwarnings("ignore:CUDA out of memory")
def test_an_epoch_says_whether_its_passes_were_halved() -> None:
    assert [epoch.halved for epoch in _train(_hungry(), {"epochs": 2})] == [False, False]
    assert [epoch.halved for epoch in _train(_hungry(3), {"epochs": 2})] == [True, True]


def test_passes_that_are_planned_apart_train_as_the_hyperparameters_would(tmp_path: Path) -> None:
    """And a training goes on in other passes, for they are no part of its identity."""
    one, other, again = (_hungry() for _ in range(3))
    expected = _train(one, {"epochs": 2, "accumulation_steps": 2})
    assert _same(_train(other, {"epochs": 2}, accumulation_steps=2), expected)
    assert _identical(one, other)
    path = tmp_path / "one.pt"
    _train(again, {"epochs": 2}, checkpoint=path, until=1, accumulation_steps=5)
    assert len(_train(again, {"epochs": 2}, checkpoint=path, accumulation_steps=2)) == 2


def test_out_of_memory_in_a_later_epoch_fails() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _train(_hungry(3, from_call=3))


def test_the_same_seed_gives_the_same_result_dropout_included() -> None:
    models = [_stilt(dropout=0.5) for _ in range(3)]
    torch.manual_seed(77)  # what the caller drew before doesn't matter
    histories = [_train(model, seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)]
    assert _same(histories[0], histories[1])
    assert _identical(models[0], models[1])
    assert not _identical(models[0], models[2])


def test_loader_processes_do_not_change_the_result() -> None:
    models = [_stilt(dropout=0.5) for _ in range(2)]
    for workers, model in enumerate(models):
        _train(model, {"epochs": 2}, loader_workers=2 * workers)
    assert _identical(*models)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_clips_resized_on_the_device_train_to_about_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [_auxiliary() for _ in range(2)]
    _train(models[0], {"precision": "bfloat16"})
    for_a_gpu = partial(make_loader, device=torch.device("cuda"))
    monkeypatch.setattr(
        loop,
        "make_loader",
        lambda data, batches, *, device, workers: for_a_gpu(data, batches, workers=workers),
    )
    _train(models[1], {"precision": "bfloat16"})
    _assert_close(*models, rtol=0, atol=2e-3)
    assert not _identical(*models)


@pytest.mark.parametrize("apart", [0.0, math.inf], ids=["of every epoch", "of the last epoch"])
def test_a_resumed_training_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: float
) -> None:
    monkeypatch.setattr(loop, "EPOCHS_SHARE_SECONDS", apart)
    straight, stopped = _stilt(dropout=0.5), _stilt(dropout=0.5)
    expected = _train(straight, validation=_data(straight, augment=False))
    checkpoint = tmp_path / "one.pt"

    def killed(epoch: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(
            stopped,
            validation=_data(stopped, augment=False),
            checkpoint=checkpoint,
            report=killed,
        )
    assert checkpoint.exists() == (apart == 0)
    for epoch in (2, 3):
        other = _stilt(9 if checkpoint.exists() else 0, dropout=0.5)
        history = _train(
            other,
            validation=_data(other, augment=False),
            checkpoint=checkpoint,
            until=epoch,
        )
    assert _same(history, expected)
    assert _identical(other, straight)


def test_short_epochs_share_a_checkpoint_that_is_written_after_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert EPOCHS_SHARE_SECONDS == 10
    clock, held = [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    checkpoint = tmp_path / "one.pt"

    def reported(epoch: EpochReport) -> None:
        held.append(len(load_checkpoint(checkpoint)["history"]) if checkpoint.exists() else 0)

    model = _auxiliary()
    data = _data(model)
    next_epoch = data.set_epoch

    def six_seconds(epoch: int) -> None:
        next_epoch(epoch)
        clock[0] += 6

    monkeypatch.setattr(data, "set_epoch", six_seconds)
    _train(model, {"epochs": 6}, data=data, checkpoint=checkpoint, report=reported)
    assert held == [0, 2, 2, 4, 4, 6]
    # The last epoch of a call has its checkpoint however short it is.
    _train(_auxiliary(), {"epochs": 6}, data=data, until=1, checkpoint=tmp_path / "two.pt")
    assert len(load_checkpoint(tmp_path / "two.pt")["history"]) == 1


class _InterruptedError(Exception):
    pass


@contextmanager
def _interrupted_before(step: float, *, chance: float = 1.0, seed: int = 0) -> Iterator[list[int]]:
    """Raises before a step of the optimiser, with checkpoints written within epochs by chance.

    Yields:
        The numbers of the steps that were begun, from 0 over all epochs.
    """
    begun: list[int] = []
    draw = random.Random(seed)

    def rate(hyperparameters: Hyperparameters, number: int, steps_per_epoch: int) -> float:
        if len(begun) >= step:
            raise _InterruptedError
        begun.append(number)
        return learning_rate(hyperparameters, number, steps_per_epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", rate)
        patch.setattr(CheckpointTimes, "due", lambda times: draw.random() < chance)
        patch.setattr(loop, "CHECK_EVERY", 2)
        yield begun


SMALL_BATCHES = {"batch_size": 2, "epochs": 2}  # 7 steps an epoch


@pytest.mark.parametrize("more", [{}, {"accumulation_steps": 2}, ALL_EXTRAS], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_interrupted_within_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path, seed: int, more: dict[str, Any]
) -> None:
    change = {**SMALL_BATCHES, **more}
    straight, checkpoint = _stilt(dropout=0.5), tmp_path / "one.pt"
    with _interrupted_before(math.inf):
        expected = _train(straight, change, validation=_data(straight, augment=False))
    for steps in (*random.Random(seed).choices((1, 3, 4, 9), k=5), math.inf):
        other = _stilt(9 if checkpoint.exists() else 0, dropout=0.5)
        data = _data(other, augment=False)
        with contextlib.suppress(_InterruptedError), _interrupted_before(steps, chance=0.6):
            history = _train(other, change, validation=data, checkpoint=checkpoint)
            break
    assert _same(history, expected)
    assert _identical(other, straight)


def test_an_interrupted_epoch_goes_on_at_the_next_step_and_keeps_its_time(tmp_path: Path) -> None:
    begun = []
    for steps in (3, 2, math.inf):
        with contextlib.suppress(_InterruptedError), _interrupted_before(steps) as some:
            history = _train(_auxiliary(), SMALL_BATCHES, checkpoint=tmp_path / "one.pt")
        begun += some
        if steps == 2:
            path = tmp_path / "one.pt"
            state = load_checkpoint(path)
            assert (state["unfinished"]["epoch"], state["unfinished"]["steps"]) == (0, 5)
            state["unfinished"]["seconds"] += 1000
            save_checkpoint(path, state)
    assert begun == list(range(14))
    assert [epoch.seconds > 1000 for epoch in history] == [True, False]
    assert history[0].clips_per_second < VIDEOS / 1000


def test_an_epoch_that_is_begun_beyond_the_wanted_one_is_left_out_of_account(
    tmp_path: Path,
) -> None:
    one, other = _auxiliary(), _auxiliary()
    with pytest.raises(_InterruptedError), _interrupted_before(9):
        _train(one, SMALL_BATCHES, checkpoint=tmp_path / "one.pt")
    with _interrupted_before(math.inf) as begun:
        _train(other, SMALL_BATCHES, checkpoint=tmp_path / "one.pt", until=1)
    assert begun == list(range(7))


def test_a_finished_training_is_not_trained_again_but_reported(tmp_path: Path) -> None:
    model, again = _auxiliary(), _auxiliary()
    history = _train(model, checkpoint=tmp_path / "one.pt")
    reports: list[EpochReport] = []
    assert _train(again, checkpoint=tmp_path / "one.pt", report=reports.append) == history
    assert reports == history[-1:]
    assert _identical(model, again)


def test_reports_are_plain_values_of_every_epoch() -> None:
    reports: list[EpochReport] = []
    model = _auxiliary()
    history = _train(model, validation=_data(model, augment=False), report=reports.append)
    assert reports == history
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    for epoch in history:
        values = asdict(epoch)
        losses = values.pop("losses")
        kinds = {type(value) for value in (*values.values(), *losses.values())}
        assert kinds == {int, float, bool}
        assert epoch.seconds >= VIDEOS / epoch.clips_per_second > 0


@pytest.mark.parametrize(
    ("difference", "named"),
    [
        ({"seed": 2}, "seed"),
        ({"change": {"momentum": 0.5}}, "hyperparameters"),
        ({"data": _data(_stilt(), 12)}, "training videos"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, difference: dict[str, Any], named: str
) -> None:
    checkpoint = tmp_path / "one.pt"
    _train(_stilt(), checkpoint=checkpoint, until=1)
    with pytest.raises(ValueError, match=rf"one\.pt is of another training: its {named} differ"):
        _train(_stilt(), checkpoint=checkpoint, **difference)


def test_a_damaged_checkpoint_is_kept_and_the_training_starts_again_to_the_same_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, again = _stilt(dropout=0.5), _stilt(dropout=0.5)
    expected = _train(straight)
    checkpoint = tmp_path / "one.pt"
    _train(_stilt(9, dropout=0.5), checkpoint=checkpoint)
    damaged = bytearray(checkpoint.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    checkpoint.write_bytes(damaged)
    assert _same(_train(again, checkpoint=checkpoint), expected)
    assert _identical(again, straight)
    assert (tmp_path / "one.pt.damaged").read_bytes() == damaged
    (warning,) = caplog.messages
    assert f"checkpoint {checkpoint} is damaged" in warning
    assert "It is now one.pt.damaged, and the training starts again" in warning
    assert len(load_checkpoint(checkpoint)["history"]) == BASE.epochs


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "one.pt"
    _train(_stilt(), checkpoint=checkpoint, until=1)
    with pytest.raises(ValueError, match="its model differ"):
        _train(_stilt(attention_dim=16), checkpoint=checkpoint)


def test_a_loss_that_is_not_finite_names_epoch_step_and_rate() -> None:
    model = _auxiliary(fails_at=5)  # the second step of the second epoch
    with pytest.raises(
        NonFiniteLossError,
        match=r"temporal loss became nan in epoch 2, step 2, at a learning rate of 0\.0293",
    ):
        _train(model)


def test_a_rate_that_is_far_too_high_is_noticed() -> None:
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        _train(_stilt(), {"learning_rate": 1e20})


def test_a_loss_weight_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names extar, but .* spatial, temporal, extra, penalty"):
        _train(_auxiliary(), {"loss_weights": {"extar": 2.0}})


def test_a_stream_that_is_not_built_needs_no_loss_weight_removed() -> None:
    model = _stilt(streams=("spatial",), interaction=False)
    [epoch] = _train(model, {"epochs": 1, "loss_weights": {"temporal": 2.0}})
    assert set(epoch.losses) == {"spatial"}


@pytest.mark.parametrize("interaction", [False, True])
def test_gradients_are_clipped_by_stream_where_streams_are_independent(interaction: bool) -> None:
    model = _stilt(interaction=interaction)
    output = model(**model.example_inputs(batch_size=4, frames=2, size=20))
    sum(logits.logsumexp(1).sum() for logits in output.logits.values()).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    clip_gradients(model, 0.1)
    groups = [("spatial",), ("temporal",)] if not interaction else [("",)]
    for names in groups:
        mine = [name for name in before if any(one in name for one in names)]
        norm = torch.stack([before[name].square().sum() for name in mine]).sum().sqrt()
        assert norm > 0.1
        for name in mine:
            torch.testing.assert_close(
                model.get_parameter(name).grad, before[name] * (0.1 / norm), rtol=1e-4, atol=1e-7
            )


@pytest.mark.parametrize(
    "options",
    [
        {},
        ALL_EXTRAS,
        {"class_balance": "loss"},
        {"activation_checkpointing": True},
        pytest.param(
            {"device": "cuda"},
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
        ),
    ],
    ids=str,
)
def test_independent_streams_train_together_to_the_last_bit_as_each_alone(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Those of both stop and resume on the way."""
    change = {
        "clip_norm": 0.5,
        "loss_weights": {"spatial": 0.7, "temporal": 1.3},
        "accumulation_steps": 2,
        **{name: value for name, value in options.items() if name != "device"},
    }
    both = _stilt(interaction=False, dropout=0.5)
    device = options.get("device", "cpu")
    options = {"device": device, "checkpoint": tmp_path / "both.pt"}
    _train(_stilt(interaction=False, dropout=0.5), change, until=1, **options)
    history = _train(both, change, **options)
    for stream in ("spatial", "temporal"):
        alone = _stilt(interaction=False, dropout=0.5, streams=(stream,))
        single = _train(alone, change, device=device)
        assert single[-1].losses[stream] == history[-1].losses[stream]
        for name, value in alone.state_dict().items():
            assert torch.equal(both.state_dict()[name], value), name


def test_a_checkpoint_beyond_the_wanted_epoch_is_left_out_of_account(tmp_path: Path) -> None:
    straight, again = _stilt(dropout=0.5), _stilt(dropout=0.5)
    expected = _train(straight, until=1)
    _train(_stilt(dropout=0.5), checkpoint=tmp_path / "one.pt", until=2)
    assert _same(_train(again, checkpoint=tmp_path / "one.pt", until=1), expected)
    assert _identical(straight, again)


def test_validation_is_top1_of_the_late_average_and_its_scores_are_handed_on() -> None:
    model = _stilt()
    data = _data(model, augment=False)
    history = _train(model, validation=data)
    scores = score(model, data)
    average = (scores.scores["spatial"] + scores.scores["temporal"]) / 2
    assert history[-1].validation_top1 == np.mean(average.argmax(1) == scores.labels)
    seen: dict[int, Scores] = {}
    again = _stilt()
    _train(again, validation=data, validated=seen.__setitem__)
    assert list(seen) == [1, 2, 3]
    for stream, expected in score(again, data).scores.items():
        np.testing.assert_allclose(seen[3].scores[stream], expected, rtol=1e-6)
    assert _train(_auxiliary(), {"epochs": 1})[0].validation_top1 is None


def test_bfloat16_trains_to_about_the_same() -> None:
    history, other = _train(_stilt()), _train(_stilt(), {"precision": "bfloat16"})
    assert other[0].train_loss == pytest.approx(history[0].train_loss, rel=0.05)
    assert other[0].train_loss != history[0].train_loss


def test_it_learns_what_is_learnable() -> None:
    model = _stilt(dropout=0.1)
    history = _train(
        model,
        {"epochs": 20, "batch_size": 4, "warmup_epochs": 2, "clip_norm": 1.0},
        validation=_data(model, augment=False),
    )
    assert history[-1].train_loss < 0.5 * history[0].train_loss
    assert history[-1].validation_top1 is not None
    assert history[-1].validation_top1 > 0.9


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same() -> None:
    plain, compiled = _auxiliary(), _auxiliary()
    _train(plain)
    _train(compiled, compile=True)
    _assert_close(compiled, plain)


def test_the_loop_runs_without_the_packages_that_a_gpu_image_lacks() -> None:
    absent = ("ray", "decord", "optuna", "duckdb", "pyarrow")
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); import study.training.loop"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


DISTRIBUTED = {
    "accumulation_steps": 2, "clip_norm": 1.0,
    **EXTRAS["smoothing"], **EXTRAS["balanced sampling"], **EXTRAS["average"],
}  # fmt: skip


def _train_in_one_of_two_processes(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = _stilt(rank)  # the first process's weights count
    reports: list[EpochReport] = []
    history = _train(
        model,
        DISTRIBUTED,
        validation=_data(model, augment=False),
        checkpoint=folder / "distributed.pt",
        report=reports.append,
    )
    assert reports == history
    scores = score(model, _data(model, augment=False), batch_size=2)
    failing = _auxiliary(fails_at=2 if rank else math.inf)
    try:
        _train(failing)
        failure = "none"
    except NonFiniteLossError as error:
        failure = str(error)
    other = folder / f"only-{rank}.pt"
    if rank:
        os.link(folder / "distributed.pt", other)
    try:
        _train(_stilt(), DISTRIBUTED, checkpoint=other)
        refusal = "none"
    except RuntimeError as error:
        refusal = str(error)
    restarted = _train(_auxiliary(), checkpoint=folder / "damaged.pt")
    straight, stopped = _stilt(dropout=0.5), _stilt(dropout=0.5)
    within = folder / "within.pt"
    with _interrupted_before(math.inf):
        expected = _train(straight, SMALL_BATCHES)
    with contextlib.suppress(_InterruptedError), _interrupted_before(10):
        _train(stopped, SMALL_BATCHES, checkpoint=within)
    dist.barrier()
    if rank == 0:
        shutil.copy(within, folder / "unfinished.pt")
    with _interrupted_before(math.inf) as begun:
        continued = _train(stopped, SMALL_BATCHES, checkpoint=within)
    assert begun == list(range(10, 14))
    assert _same(continued, expected)
    assert _identical(stopped, straight)
    torch.save(
        {
            "model": model.state_dict(),
            "restarted": len(restarted),
            "history": [asdict(epoch) for epoch in history],
            "scores": torch.from_numpy(scores.scores["temporal"]),
            "features": torch.from_numpy(scores.features["temporal"]),
            "failure": failure,
            "refusal": refusal,
        },
        folder / f"rank-{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two_processes")
    (folder / "damaged.pt").write_bytes(b"damaged")
    spawn(_train_in_one_of_two_processes, (folder,), nprocs=2)
    return folder, [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_train_to_the_result_of_one(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    _, ranks = two_processes
    single = _stilt()
    expected = _train(single, DISTRIBUTED, validation=_data(single, augment=False))
    scores = score(single, _data(single, augment=False))
    for rank in ranks:
        torch.testing.assert_close(rank["model"], dict(single.state_dict()), atol=1e-5, rtol=1e-4)
        for epoch, one in zip(rank["history"], expected, strict=True):
            assert epoch["train_loss"] == pytest.approx(one.train_loss, rel=1e-4)
            assert epoch["losses"] == pytest.approx(one.losses, rel=1e-4)
            assert epoch["validation_top1"] == pytest.approx(one.validation_top1)
        assert rank["history"] == ranks[0]["history"]
        np.testing.assert_allclose(rank["scores"], scores.scores["temporal"], atol=1e-4)
        np.testing.assert_allclose(rank["features"], scores.features["temporal"], atol=1e-3)
    assert all(torch.equal(ranks[1]["model"][name], x) for name, x in ranks[0]["model"].items())


def test_one_process_goes_on_from_the_checkpoint_of_two(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, ranks = two_processes
    model = _stilt()
    history = _train(model, DISTRIBUTED, checkpoint=folder / "distributed.pt")
    assert [asdict(epoch) for epoch in history] == ranks[0]["history"]


def test_one_process_goes_on_within_an_epoch_of_two(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, _ = two_processes
    model = _stilt(dropout=0.5)
    with _interrupted_before(math.inf) as begun:
        history = _train(model, SMALL_BATCHES, checkpoint=folder / "unfinished.pt")
    assert begun == list(range(10, 14))
    two = load_checkpoint(folder / "within.pt")["history"]
    # Other videos meet other dropout masks from there on; what was summed before is the same.
    assert history[1].train_loss == pytest.approx(two[1]["train_loss"], rel=0.2)


def test_a_loss_that_is_not_finite_in_one_process_stops_all(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    _, ranks = two_processes
    for rank in ranks:
        assert "temporal loss became nan in epoch 1, step 2" in rank["failure"]


def test_processes_that_see_different_checkpoints_stop(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    _, ranks = two_processes
    for found, rank in zip((0, 3), ranks, strict=True):
        assert f"this one finds {found} epochs" in rank["refusal"]


def test_processes_that_find_a_damaged_checkpoint_start_again_together(
    two_processes: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, ranks = two_processes
    assert [rank["restarted"] for rank in ranks] == [BASE.epochs, BASE.epochs]
    assert (folder / "damaged.pt.damaged").read_bytes() == b"damaged"
    assert len(load_checkpoint(folder / "damaged.pt")["history"]) == BASE.epochs
