"""Feature extractors that every system builds on.

Importing the package imports every module of it, and with it registers every backbone.
"""

import importlib
import pkgutil

from models.backbones.base import Backbone, cross_modality_start
from models.backbones.registry import create_backbone, list_backbones, register_backbone

__all__ = [
    "Backbone",
    "create_backbone",
    "cross_modality_start",
    "list_backbones",
    "register_backbone",
]

for _module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
    importlib.import_module(_module.name)
