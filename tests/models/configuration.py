"""How each network is tested by ``test_every_model.py``.

A network's own test holds ``CONFIGURATIONS``: its name, or those of its variants, with what the
tests of every network need to know of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SMALL_BACKBONE: Mapping[str, Any] = {"backbone": "small", "flow_length": 2}
BOTH_STREAMS: Mapping[str, Any] = {**SMALL_BACKBONE, "streams": ("spatial", "temporal")}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """How a network is tested.

    Attributes:
        options: Options that make it small.
        frames: Frames T of a clip.
        fewest_frames: Fewest frames that it works on.
        interacts: Why its streams aren't independent; empty where they are.
        golden: The losses of ten steps, in double precision: the test that compares them prints
            those that it finds.
    """

    golden: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 2
    fewest_frames: int = 1
    interacts: str = ""
