"""What every network returns."""

from dataclasses import dataclass, field

from torch import Tensor
from torch.export import register_dataclass

__all__ = ["ModelOutput"]


@dataclass
class ModelOutput:
    """One forward pass over B clips: everything that training, fusion and plots need.

    Attributes:
        logits: Stream name → class logits, ``(B, N)``. Each stream has its own softmax loss.
        features: Stream name → the vector that the stream's classifier sees, ``(B, D)``; early
            fusion classifies the concatenation of these.
        attention: Name → attention weights, ``(B, n)``; each row is non-negative and sums to one.
        auxiliary_logits: Name → class logits ``(B, N)`` of an extra classifier; training adds its
            cross-entropy times the loss weight of that name.
        auxiliary_losses: Name → a penalty for each clip, ``(B,)``; training adds its mean times
            the loss weight of that name.
    """

    logits: dict[str, Tensor]
    features: dict[str, Tensor]
    attention: dict[str, Tensor] = field(default_factory=dict)
    auxiliary_logits: dict[str, Tensor] = field(default_factory=dict)
    auxiliary_losses: dict[str, Tensor] = field(default_factory=dict)


register_dataclass(ModelOutput, serialized_type_name="two_stream.ModelOutput")
