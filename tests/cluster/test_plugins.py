"""A plug-in's source on the way to where it trains."""

import sys
from pathlib import Path

import pytest

from models import list_models
from models.plugins import PluginError, import_named
from study.cluster import plugins
from study.cluster.plugins import FOLDER, check_received, receive, ship
from tests.models.test_plugins import MODEL


def test_what_was_shipped_is_imported_whatever_is_written_afterwards(
    plug_in_folder: Path, tmp_path: Path
) -> None:
    (plug_in_folder / "net.py").write_text("import beside\n" + MODEL.format(name="shipped"))
    (plug_in_folder / "beside.py").write_text("import torch\nTEXT = 'read by the driver'\n")
    (plug_in_folder / "unused.py").write_text("")
    import_named("net.py")
    sources = ship(["net"])
    (plug_in_folder / "beside.py").write_text("TEXT = 'edited since'\n")
    for name in ("net", "beside"):
        del sys.modules[name]  # a worker has imported neither
    sys.modules["models.registry"]._MODELS.pop("shipped")
    sys.path.insert(0, str(plug_in_folder))  # but has the driver's folder on its path

    receive(["net"], sources, str(tmp_path))
    receive(["net"], sources, str(tmp_path))
    assert "shipped" in list_models()
    assert sys.modules["beside"].TEXT == "read by the driver"
    assert {path.name for path in (tmp_path / FOLDER).glob("*.py")} == {"net.py", "beside.py"}


def test_the_projects_own_systems_need_no_shipping(tmp_path: Path) -> None:
    before = list(sys.path)
    receive([], ship([]), str(tmp_path))
    assert sys.path == before
    assert not list(tmp_path.iterdir())


def test_a_library_that_a_node_lacks_is_named_with_the_node(
    plug_in_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "on_every_node", lambda task, *given: [task(*given)])
    said = r"on node .+, module 'net' can't be imported: .*line 1 .*no_such_library.* on all nodes"
    with pytest.raises(PluginError, match=said):
        check_received(("net",), {"net.py": b"import no_such_library\n"}, str(tmp_path))
    check_received(("net",), {"net.py": b""}, str(tmp_path / "other"))
