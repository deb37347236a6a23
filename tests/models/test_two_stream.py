"""The classic two-stream network: fully connected heads, frame by frame."""

from typing import Any

import torch
from torch import Tensor

from models import VideoModel, create_model
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "two_stream": Configuration(
        options={**SMALL_BACKBONE, "head_dims": (32, 32), "head_grid": 2},
        golden=(
            3.521204,
            2.830142,
            2.336192,
            1.819868,
            1.418492,
            1.049503,
            0.805982,
            0.628609,
            0.478677,
            0.347993,
        ),
    ),
}

SMALL: dict[str, Any] = {
    "backbone": "small",
    "flow_length": 2,
    "head_dims": (12, 10),
    "head_grid": 2,
}


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_model("two_stream", num_classes=4, **{**SMALL, **options})


def _clips(model: VideoModel, size: int = 64) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return model.example_inputs(batch_size=2, frames=3, size=size)


def test_frames_are_classified_one_by_one_and_averaged() -> None:
    model = _model().eval()
    clips = _clips(model)
    expected = torch.zeros(2, 4)
    for t in range(3):
        maps = model.backbones["spatial"](clips["rgb"][:, t])  # (2, 96, 4, 4)
        grid = maps.reshape(2, 96, 2, 2, 2, 2).mean(dim=(3, 5))
        _, logits = model.heads["spatial"](grid.flatten(1))
        expected += logits / 3
    output = model(**clips)
    torch.testing.assert_close(output.logits["spatial"], expected)
    assert output.features["temporal"].shape == (2, 10)
    torch.testing.assert_close(
        model.heads["temporal"][-1](output.features["temporal"]), output.logits["temporal"]
    )


def test_the_default_is_vgg_m_2048_with_its_fully_connected_layers() -> None:
    torch.manual_seed(0)
    model: Any = create_model("two_stream", num_classes=101)
    shapes = [tuple(model.heads["spatial"][i].weight.shape) for i in (0, 3, 6)]
    assert shapes == [(4096, 512 * 6 * 6), (2048, 4096), (101, 2048)]
    assert model.backbones["temporal"].features[0].in_channels == 20


def test_fully_connected_weights_load_where_they_fit() -> None:
    model = _model(backbone="vgg16", head_dims=(8, 6), head_grid=None, flow_length=1)
    checkpoint = {
        **{k: torch.randn_like(v) for k, v in model.backbones["spatial"].state_dict().items()},
        "classifier.0.weight": torch.randn(8, 512 * 7 * 7), "classifier.0.bias": torch.randn(8),
        "classifier.3.weight": torch.randn(6, 9), "classifier.3.bias": torch.randn(6),
    }  # fmt: skip
    before = model.heads["spatial"][3].weight.clone()
    model.load_backbone_weights(checkpoint)
    for stream in ("spatial", "temporal"):
        assert torch.equal(model.heads[stream][0].weight, checkpoint["classifier.0.weight"])
        assert torch.equal(model.heads[stream][0].bias, checkpoint["classifier.0.bias"])
    assert torch.equal(model.heads["spatial"][3].weight, before)


def test_without_hidden_layers_any_backbone_averages_its_last_map() -> None:
    model = _model(backbone="resnet18", head_dims=(), head_grid=None).eval()
    output = model(**_clips(model))
    assert output.features["spatial"].shape == (2, 512)
