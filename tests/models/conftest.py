from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def shapes_alone() -> Iterator[None]:
    """Makes networks and clips of shapes alone: a large network's start takes a second."""
    with torch.device("meta"):
        yield
