"""Maps of where a network looks, against closed forms and differences of scores."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import create_model
from models.attention_consistency import class_activation
from models.maps import clip_maps, over_clip

SMALL: dict[str, Any] = {"num_classes": 3, "backbone": "small", "flow_length": 2}


def clip(model: Any, *, frames: int = 2, size: int = 64) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: x.double() for name, x in model.example_inputs(frames=frames, size=size).items()}


def network(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, **{**SMALL, **options}).double().eval()


def test_of_a_linear_classifier_of_mean_features_it_is_the_class_activation_map() -> None:
    model = network("tsn", streams=("spatial", "temporal"))
    inputs = clip(model)
    found = clip_maps(model, inputs, 2)
    for stream, name in (("spatial", "rgb"), ("temporal", "flow")):
        maps = model.backbones[stream](inputs[name].flatten(0, 1)).detach()
        weight = model.heads[stream][-1].weight[2].detach()
        cam = class_activation(maps.transpose(0, 1)[None], weight[None])[0]
        torch.testing.assert_close(found.grad_cam[stream], cam / cam.max())


def test_a_channels_weight_is_what_raising_it_everywhere_adds_to_the_score() -> None:
    """Of streams that attend to each other, whose scores are no longer linear in their maps."""
    model = network("stilt", attend_over="cells", attention_dim=8, head_dims=(8,), sharpness=5.0)
    inputs = clip(model, frames=2)
    maps = model.backbones["temporal"](inputs["flow"].flatten(0, 1)).detach()
    shift = torch.zeros_like(maps[..., :1, :1])
    hook = model.backbones["temporal"].register_forward_hook(lambda *given: given[-1] + shift)
    alpha = torch.zeros_like(shift)
    step = 1e-5
    for place in torch.cartesian_prod(*map(torch.arange, maps.shape[:2])):
        change = []
        for sign in (step, -step):
            shift[tuple(place)] = sign
            change.append(model(**inputs).logits["temporal"][0, 1].item())
        shift[tuple(place)] = 0
        alpha[tuple(place)] = (change[0] - change[1]) / (2 * step)
    hook.remove()
    expected = (alpha * maps).sum(dim=1).relu()
    assert expected.max() > 0
    found = clip_maps(model, inputs, 1).grad_cam["temporal"]
    torch.testing.assert_close(found.double(), expected / expected.max(), rtol=1e-4, atol=1e-4)


def test_attention_over_cells_lies_where_its_cells_are() -> None:
    model = network("stilt", attend_over="cells", attention_dim=8, head_dims=(8,), sharpness=9.0)
    inputs = clip(model, frames=3)
    inputs["rgb"] = torch.cat([inputs["rgb"], inputs["rgb"]], dim=4)  # twice as wide as high
    inputs["flow"] = torch.cat([inputs["flow"], inputs["flow"]], dim=4)
    rows, columns = model.backbones["spatial"](inputs["rgb"][0]).shape[2:]
    weights = model(**inputs).attention["spatial"][0]
    found = clip_maps(model, inputs, 0).attention["spatial"]
    assert found.shape == (3, rows, columns)
    assert columns == 2 * rows
    for t, y, x in ((0, 0, 1), (1, 1, 0), (2, rows - 1, columns - 1)):
        assert found[t, y, x].item() == pytest.approx(
            weights[(t * rows + y) * columns + x].item(), rel=1e-5
        )


def test_attention_over_frames_has_one_weight_a_frame() -> None:
    model = network("stilt", attention_dim=8, head_dims=(8,))
    inputs = clip(model, frames=3)
    found = clip_maps(model, inputs, 0).attention["temporal"]
    assert found.shape == (3, 1, 1)
    assert found.sum().item() == pytest.approx(1)


def test_maps_are_spread_evenly_over_the_clip() -> None:
    coarse = torch.arange(2.0).expand(1, 3, 2)
    spread = over_clip(coarse, 4, (6, 8))
    assert spread.shape == (4, 6, 8)
    expected = ((torch.arange(8) + 0.5) / 4 - 0.5).clip(0, 1)  # between the two cells' centres
    torch.testing.assert_close(spread, expected.expand(4, 6, 8))


@pytest.mark.parametrize(
    ("clips", "label", "said"),
    [(2, 0, "of one clip, got inputs of 2"), (1, 3, "one of 0..2, got 3")],
)
def test_what_has_no_map_is_refused(clips: int, label: int, said: str) -> None:
    model = network("tsn")
    with pytest.raises(ValueError, match=said):
        clip_maps(model, {"rgb": torch.zeros(clips, 1, 3, 32, 32).double()}, label)
