"""Plug-ins that are forgotten: imported in a test, they are as if they had never been."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def plug_ins_forgotten() -> Iterator[None]:
    """Forgets afterwards which modules were imported meanwhile, and what they registered."""
    import models.registry
    import search_spaces.registry
    from study import plan, source
    from study.data.datasets.catalog import list_datasets
    from study.data.datasets.reader import READERS

    search_spaces.names(), models.registry.list_models(), list_datasets()  # the project's stay
    with (
        mock.patch.dict(sys.modules),
        mock.patch.dict(search_spaces.registry._SPACES),
        mock.patch.dict(models.registry._MODELS),
        mock.patch.dict(READERS),
    ):
        yield
    for known_by_name in (source.source_version, plan._build_net):
        known_by_name.cache_clear()
