import torch
from torch.utils import _pytree as pytree

from models import ModelOutput


def _output() -> ModelOutput:
    return ModelOutput(
        logits={"spatial": torch.zeros(2, 3), "temporal": torch.ones(2, 3)},
        features={"spatial": torch.zeros(2, 4)},
    )


def test_optional_parts_are_empty_and_not_shared_between_outputs() -> None:
    first, second = _output(), _output()
    first.attention["spatial"] = torch.ones(2, 1)
    assert second.attention == {}
    assert second.auxiliary_logits == {}
    assert second.auxiliary_losses == {}


def test_an_output_is_a_tree_of_its_tensors() -> None:
    leaves, structure = pytree.tree_flatten(_output())
    assert len(leaves) == 3
    doubled = pytree.tree_unflatten([2 * leaf for leaf in leaves], structure)
    assert isinstance(doubled, ModelOutput)
    assert torch.equal(doubled.logits["temporal"], torch.full((2, 3), 2.0))
