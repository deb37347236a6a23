"""Feature extractors that every system builds on."""

from models.backbones.base import Backbone, cross_modality_start
from models.backbones.registry import create_backbone, list_backbones

__all__ = ["Backbone", "create_backbone", "cross_modality_start", "list_backbones"]
