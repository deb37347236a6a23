"""The size of a network: operations and parameters."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_flops", "count_parameters"]


def count_flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Counts billions of operations of one forward pass, in evaluation mode.

    A multiply–add counts as one, as in the papers of this field (GMACs, which they call GFLOPs).
    Convolutions and matrix products count; additions, norms, activations and pooling don't.
    Nothing is computed: the pass runs on shapes alone, so any size is quick.

    Args:
        model: The network or backbone.
        inputs: Keyword arguments of ``forward``, e.g. ``model.example_inputs(frames=8)``. The
            count is for all of the batch.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    counter = FlopCounterMode(display=False)
    training = model.training
    model.eval()
    try:
        with counter:
            functional_call(
                model, shapes, kwargs={name: x.to("meta") for name, x in inputs.items()}
            )
    finally:
        model.train(training)
    return counter.get_total_flops() / 2 / 1e9


def count_parameters(model: nn.Module) -> int:
    """Returns the number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())
