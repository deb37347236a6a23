"""Plug-ins that are forgotten: imported in a test, they are as if they had never been."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock


@contextmanager
def plug_ins_forgotten(folder: Path) -> Iterator[None]:
    """Forgets afterwards the modules that were imported from a folder, and what was registered."""
    import models.registry
    import search_spaces.registry
    from models import plugins
    from study import plan, source
    from study.data.datasets.catalog import list_datasets
    from study.data.datasets.reader import READERS

    search_spaces.names(), models.registry.list_models(), list_datasets()  # the project's stay
    with (
        mock.patch.object(plugins, "_imported", set()),
        mock.patch.dict(search_spaces.registry._SPACES),
        mock.patch.dict(models.registry._MODELS),
        mock.patch.dict(READERS),
    ):
        yield
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_relative_to(folder):
            del sys.modules[name]
    for known_by_name in (source.source_version, plan._build_net):
        known_by_name.cache_clear()
