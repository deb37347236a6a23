"""Spaces and tables by name, and how a new one becomes known."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import search_spaces
from search_spaces import registry

MODULE = """
from search_spaces import Arm, Settings, Space, Table, register_space


@register_space("{name}")
def space():
    return Space(
        name="{own_name}",
        title="A system",
        arms=(Arm(name="a", label="A", model="stilt"),),
        search_arm="a",
        parameters=(),
        tables=(Table(name="{table}", title="A table"),),
        settings=Settings(),
    )
"""


@pytest.fixture
def write_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Writes a module with a space, importable until the test ends."""
    monkeypatch.setattr(registry, "_SPACES", dict(registry._SPACES))
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(module: str, *, name: str, own_name: str = "", table: str = "new-1") -> str:
        text = MODULE.format(name=name, own_name=own_name or name, table=table)
        (tmp_path / f"{module}.py").write_text(text)
        return module

    yield write
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_every_module_of_a_space_is_found_and_helpers_are_none() -> None:
    modules = {path.stem for path in Path(search_spaces.__file__).parent.glob("*.py")}
    assert set(search_spaces.names()) == modules - {
        "__init__",
        "registry",
        "space",
        "embedded",
        "recipes",
    }


def test_a_new_module_of_the_package_is_found_without_being_listed(
    write_module: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_module("new_system", name="new")
    monkeypatch.setattr(search_spaces, "__path__", [*search_spaces.__path__, str(tmp_path)])
    search_spaces._import_spaces()
    assert "search_spaces.new_system" in sys.modules
    assert search_spaces.get("new").title == "A system"


def test_a_module_outside_the_package_registers_its_space_when_it_is_imported(
    write_module: Callable[..., str],
) -> None:
    importlib.import_module(write_module("outside_system", name="outside"))
    assert "outside" in search_spaces.names()
    space, table = search_spaces.find_table("new-1")
    assert (space.name, table.title) == ("outside", "A table")


def test_a_name_that_is_taken_is_refused(write_module: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="a space 'stilt' is registered already"):
        importlib.import_module(write_module("taken_space", name="stilt"))
    importlib.import_module(write_module("taken_table", name="zzz", table="stilt-4"))
    with pytest.raises(ValueError, match="'stilt' and 'zzz' both have a table 'stilt-4'"):
        search_spaces.tables()


def test_a_space_of_two_names_is_refused(write_module: Callable[..., str]) -> None:
    importlib.import_module(write_module("two_names", name="one", own_name="other"))
    with pytest.raises(ValueError, match="space 'other' is registered as 'one'"):
        search_spaces.get("one")


def test_unknown_spaces_and_tables_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="no space 'stilts'; there are all, attention"):
        search_spaces.get("stilts")
    with pytest.raises(ValueError, match="no table 'stilt-9'; there are all, attention"):
        search_spaces.find_table("stilt-9")


def test_the_spaces_need_no_more_than_the_models() -> None:
    """In a process of its own: the other tests have imported everything already."""
    code = "import sys, search_spaces; print(*sorted(sys.modules))"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    loaded = {name.partition(".")[0] for name in output.split()}
    assert "models" in loaded
    assert not loaded & {"study", "ray", "optuna", "duckdb"}
