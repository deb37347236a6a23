"""What networks of 2-D backbones have in common in their options."""

from dataclasses import dataclass

from models.backbones import list_backbones
from models.checks import check_count, check_fields, check_number, check_one_of

__all__ = ["BackboneOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneOptions:
    """Options that every network of 2-D backbones has.

    Attributes:
        backbone: Network of each stream.
        flow_length: Flow fields L in a stack.
        dropout: Dropout probability before the classifier, in [0, 1).
        partial_bn: Freeze every BatchNorm of a backbone but the first.

    Raises:
        ValueError: If a value isn't allowed.
    """

    backbone: str = "resnet50"
    flow_length: int = 10
    dropout: float = 0.5
    partial_bn: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_one_of("backbone", self.backbone, list_backbones())
        check_count("flow_length", self.flow_length)
        check_number("dropout", self.dropout, least=0, below=1)
