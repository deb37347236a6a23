"""A small dataset of class folders, and the settings that its clip stores are made with."""

from pathlib import Path

import pytest

from study.data.datasets.catalog import annotate
from study.data.flow.compute import FlowSettings
from study.data.store.settings import StoreSettings
from tests.data.video_files import write_dataset

FLOW = FlowSettings(scales=1, warps=1, iterations=5)


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Two classes of five videos; don't write here."""
    return write_dataset(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def annotations(videos):
    return annotate("folder", videos=videos, group="(p[0-9])")


@pytest.fixture(scope="session")
def settings() -> StoreSettings:
    return StoreSettings(dataset="folder", short_side=24, stacks=2, flow_length=3, flow=FLOW)


@pytest.fixture(scope="session")
def full_settings() -> StoreSettings:
    return StoreSettings(dataset="folder", short_side=24, flow=FLOW)
