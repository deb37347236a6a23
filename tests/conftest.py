"""Fixtures that several test packages share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips and official split files; skips the test where there is none."""
    folder = Path(os.environ.get("TWO_STREAM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "videos").is_dir():
        pytest.skip(f"no real clips: {folder} is missing; set TWO_STREAM_DATA to their folder")
    return folder
