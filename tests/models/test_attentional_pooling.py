"""Attentional pooling against second-order pooling written out."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models import create_model
from tests.models.configuration import BOTH_STREAMS, Configuration

CONFIGURATIONS = {
    "attentional_pooling": Configuration(
        options=BOTH_STREAMS,
        golden=(
            3.233323,
            3.178541,
            3.091226,
            2.971671,
            2.808589,
            2.604488,
            2.31155,
            1.982469,
            1.592536,
            1.27904,
        ),
    ),
}


@pytest.mark.parity("Attentional pooling", "the score")
@pytest.mark.parametrize("rank", [1, 3])
def test_the_score_is_second_order_pooling_with_a_low_rank_weight(rank: int) -> None:
    torch.manual_seed(0)
    model: Any = create_model(
        "attentional_pooling", num_classes=4, backbone="small", rank=rank
    ).eval()
    with torch.no_grad():
        model.saliency["spatial"].bias.zero_()
    clip = model.example_inputs(frames=1, size=48)["rgb"]
    cells = model.backbones["spatial"](clip[:, 0])[0].flatten(1).T  # (n, D)
    second_order = cells.T @ cells / len(cells)
    b = model.saliency["spatial"].weight[:, :, 0, 0]  # (P, D)
    head = model.heads["spatial"][-1]
    a = head.weight.reshape(4, rank, -1)  # (N, P, D)
    for k in range(4):
        weights = torch.stack([torch.outer(a[k, p], b[p]) for p in range(rank)]).sum(dim=0)
        expected = torch.trace(second_order @ weights.T) + head.bias[k]
        torch.testing.assert_close(model(rgb=clip).logits["spatial"][0, k], expected)


def test_a_bias_of_the_maps_is_inside_the_product() -> None:
    torch.manual_seed(0)
    model: Any = create_model(
        "attentional_pooling", num_classes=4, backbone="small", bias="map"
    ).eval()
    clip = model.example_inputs(frames=1, size=48)["rgb"]
    maps = model.backbones["spatial"](clip[:, 0])
    weight = model.heads["spatial"][-1].weight  # a_k and c_k
    class_maps = F.conv2d(maps, weight[:, :-1, None, None], weight[:, -1])
    expected = (class_maps * model.saliency["spatial"](maps)).mean(dim=(2, 3))
    torch.testing.assert_close(model(rgb=clip).logits["spatial"], expected)


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'attentional_pooling': rank must be a whole number of at"
    ):
        create_model("attentional_pooling", num_classes=4, rank=0)
