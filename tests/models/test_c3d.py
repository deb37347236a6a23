"""C3D's fully connected layers."""

import torch

from models import create_model


def test_c3d_sees_its_last_map_whole_at_the_papers_size() -> None:
    model = create_model("c3d", num_classes=4, width=0.125, head_dims=(16, 8)).eval()
    clip = model.example_inputs(frames=16, size=112)["rgb"]
    maps = model.nets["spatial"](clip.transpose(1, 2))
    assert maps.shape == (1, 64, 1, 4, 4)
    expected = model.heads["spatial"](maps.flatten(1))
    torch.testing.assert_close(model(rgb=clip).logits["spatial"], expected)
