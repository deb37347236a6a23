"""Multiples of the learning rate against steps that are written out parameter by parameter."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import ModelOutput, VideoModel, create_model, list_models
from study.data.clips.dataset import ClipDataset
from study.data.clips.transforms import model_inputs
from study.training.clips import clip_settings
from study.training.hyperparameters import Hyperparameters
from study.training.loop import train
from study.training.parameter_groups import parameter_groups
from tests.memory_store import make_store
from tests.models.test_every_model import CONFIGURATIONS

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01

# What multiplies the rate, and whether the parameter decays, of each stream's layers.
LAYERS = {"conv.weight": (1, 1), "conv.bias": (2, 0), "norm.weight": (1, 0), "norm.bias": (1, 0)}
EXPECTED: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "tsn": {
        "spatial": {**LAYERS, "last.weight": (1, 1), "last.bias": (2, 0)},
        "temporal": {
            **LAYERS,
            "conv.weight": (5, 1),
            "conv.bias": (10, 0),
            "last.weight": (1, 1),
            "last.bias": (2, 0),
        },
    },
    "tsm": {
        "spatial": {**LAYERS, "last.weight": (5, 1), "last.bias": (10, 0)},
        "temporal": {
            **LAYERS,
            "conv.weight": (5, 1),
            "conv.bias": (10, 0),
            "last.weight": (5, 1),
            "last.bias": (10, 0),
        },
    },
    "st_resnet": {
        stream: {**LAYERS, "norm.weight": (2, 0), "last.weight": (1, 1), "last.bias": (2, 0)}
        for stream in ("spatial", "temporal")
    },
}


class Tiny(VideoModel):
    """In each stream a convolution with a bias, BatchNorm and a classifier."""

    def __init__(self) -> None:
        super().__init__(num_classes=4, flow_length=2, independent_streams=True)
        self.streams_of = nn.ModuleDict()
        for stream, channels in (("spatial", 3), ("temporal", 4)):
            layers = {"conv": nn.Conv2d(channels, 5, 3, stride=2), "norm": nn.BatchNorm2d(5)}
            self.streams_of[stream] = nn.ModuleDict({**layers, "last": nn.Linear(5, 4)})

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        output = ModelOutput(logits={}, features={})
        inputs = self.check_inputs(rgb, flow)
        for stream, x in zip(self.streams, inputs.values(), strict=True):
            layers: Any = self.streams_of[stream]
            maps = layers["norm"](layers["conv"](x.flatten(0, 1))).relu()
            output.features[stream] = maps.mean((2, 3)).unflatten(0, x.shape[:2]).mean(1)
            output.logits[stream] = layers["last"](output.features[stream])
        return output


def steps_by_hand(
    model: nn.Module, data: ClipDataset, expected: Mapping[str, tuple[float, float]]
) -> None:
    """Two steps of v ← 0.9 v + g + decay w, w ← w − rate v with a parameter's own rate."""
    velocity = {name: torch.zeros_like(w) for name, w in model.named_parameters()}
    for epoch in range(2):
        data.set_epoch(epoch)
        items = torch.utils.data.default_collate([data[i] for i in range(len(data))])
        output = model(**model_inputs(items, torch.device("cpu")))
        model.zero_grad()
        losses = [F.cross_entropy(one, items["label"]) for one in output.logits.values()]
        torch.stack(losses).sum().backward()
        with torch.no_grad():
            for name, w in model.named_parameters():
                multiplier, decays = expected[name]
                assert w.grad is not None
                velocity[name] = MOMENTUM * velocity[name] + w.grad + DECAY * decays * w
                w.sub_(RATE * multiplier * velocity[name])


@pytest.mark.parametrize("multipliers", EXPECTED)
def test_each_parameter_takes_its_own_step(multipliers: str) -> None:
    torch.manual_seed(0)
    model, store = Tiny(), make_store(videos=6)
    by_hand = copy.deepcopy(model)
    hyperparameters = Hyperparameters.of(
        {
            "rate_multipliers": multipliers,
            "learning_rate": RATE,
            "momentum": MOMENTUM,
            "weight_decay": DECAY,
            "schedule": "constant",
            "epochs": 2,
            "batch_size": 6,
            "segments": 2,
            "flow_length": 2,
            "crop_size": 16,
        }
    )
    clip = clip_settings(hyperparameters)
    data = ClipDataset(store, store.videos, inputs=model.inputs, clip=clip, augment=True, seed=1)
    expected = {
        f"streams_of.{stream}.{name}": of
        for stream, layers in EXPECTED[multipliers].items()
        for name, of in layers.items()
    }
    steps_by_hand(by_hand, data, expected)
    train(model, data, hyperparameters=hyperparameters, seed=1)
    for name, w in by_hand.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list_models())
def test_every_network_has_each_parameter_in_one_group_and_its_flow_first(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=3, **CONFIGURATIONS[name].options)
    groups = parameter_groups(model, "tsn")
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())
    (five,) = [g["params"] for g in groups if g["rate"] == 5] or [[]]
    flows = ["flow"] if "flow" in model.inputs else []
    assert [weight.shape[1] for weight in five] == list(map(model.input_channels, flows))
