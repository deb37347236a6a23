"""The table of sizes in docs/models.md against the networks themselves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models import create_model
from models.flops import count_flops, count_parameters

TABLE = Path(__file__).parents[2] / "docs" / "models.md"
RGB: dict[str, Any] = {"streams": ("spatial",)}
VGG_M: dict[str, Any] = {
    "backbone": "vgg_m_2048", "layers": ("relu5",), "head_dims": (4096, 2048), "towers": 1,
    "conv": "2d", "pool": "2d",
}  # fmt: skip
SLOWFAST: dict[str, Any] = {"lateral": True, "levels": ()}

# By the row's name: model, options, classes, frames and their height and width in pixels.
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "Two-stream CNN": ("two_stream", {}, 101, 1, 224),
    "Convolutional fusion, max": ("conv_fusion", {**VGG_M, "method": "max"}, 101, 1, 224),
    "Convolutional fusion, concatenation": (
        "conv_fusion", {**VGG_M, "method": "cat"}, 101, 1, 224,
    ),
    "Convolutional fusion, conv": ("conv_fusion", VGG_M, 101, 1, 224),
    "Convolutional fusion, ReLU5 + FC8": (
        "conv_fusion", {**VGG_M, "layers": ("relu5", "fc8")}, 101, 1, 224,
    ),
    "Convolutional fusion, two towers": ("conv_fusion", {}, 101, 5, 224),
    "TSN, BN-Inception, RGB": ("tsn", RGB, 400, 8, 224),
    "TSN-R50, RGB": ("tsn", {**RGB, "backbone": "resnet50"}, 400, 8, 224),
    "TSM-R50": ("tsm", {}, 400, 8, 224),
    "TRN, multi-scale": ("trn", {}, 174, 8, 224),
    "GSM, BN-Inception": ("gsm", {}, 174, 8, 224),
    "STM-R50": ("stm", {}, 400, 16, 224),
    "C3D": ("c3d", {}, 400, 16, 112),
    "I3D, RGB": ("i3d", RGB, 400, 64, 224),
    "S3D": ("s3d", {}, 400, 64, 224),
    "S3D-G": ("s3d_g", {"gates": "branches"}, 400, 64, 224),
    "R(2+1)D-18": ("r2plus1d", {}, 400, 16, 112),
    "R(2+1)D-34": ("r2plus1d", {"depths": (3, 4, 6, 3)}, 400, 32, 112),
    "ARTNet-R18": ("artnet", {}, 400, 16, 112),
    "SlowFast-R50 4×16": ("attention_consistency", SLOWFAST, 400, 32, 256),
    "Attention consistency": ("attention_consistency", {}, 400, 32, 256),
    "Attentional pooling, R101": ("attentional_pooling", {}, 51, 1, 224),
    "Spatiotemporal multiplier, R50": ("spatiotemporal_multiplier", {}, 101, 5, 224),
    "STILT-R50": ("stilt", {}, 101, 3, 224),
    "STIN-R50": ("stin", {}, 101, 3, 224),
    "CSTM, BN-Inception": ("cstm", {}, 174, 8, 224),
}  # fmt: skip


def _rows() -> dict[str, list[str]]:
    """The table's cells, by the name in the first."""
    sizes = TABLE.read_text().partition("\n## Sizes\n")[2].partition("\n## ")[0]
    lines = sizes.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {row[0]: row[1:] for row in cells if row[0] in NETWORKS}


def test_the_table_has_a_row_for_every_network() -> None:
    assert list(_rows()) == list(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_holds_what_its_network_counts(name: str) -> None:
    model, options, classes, frames, size = NETWORKS[name]
    with torch.device("meta"):
        net = create_model(model, num_classes=classes, **options)
        flops = count_flops(net, net.example_inputs(frames=frames, size=size))
    counted = [f"{frames} × {size}²", f"{count_parameters(net) / 1e6:.2f}", f"{flops:.1f}"]
    row = _rows()[name]
    assert [row[0], row[1], row[3]] == counted, f"| {name} | {' | '.join(counted)} |"
