"""Where the real clips lie that benchmarks measure on and tests check with."""

import os
from pathlib import Path

__all__ = ["VARIABLE", "real_clips"]

VARIABLE = "TWO_STREAM_DATA"


def real_clips() -> Path:
    """Returns the folder of clips and official split files, which need not be there.

    It is the one that ``TWO_STREAM_DATA`` names, or ``shared/data`` beside the checkout.
    """
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
