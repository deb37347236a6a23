"""Spaces and tables by name, and how a new one becomes known."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import search_spaces

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
def write_module(plug_in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module with a space, importable until the test ends."""
    monkeypatch.syspath_prepend(plug_in_folder)

    def write(module: str, *, name: str, own_name: str = "", table: str = "new-1") -> str:
        text = MODULE.format(name=name, own_name=own_name or name, table=table)
        (plug_in_folder / f"{module}.py").write_text(text)
        return module

    return write


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
    write_module: Callable[..., str], monkeypatch: pytest.MonkeyPatch, plug_in_folder: Path
) -> None:
    write_module("new_system", name="new")
    path = [*search_spaces.__path__, str(plug_in_folder)]
    monkeypatch.setattr(search_spaces, "__path__", path)
    assert search_spaces.get("new").title == "A system"
    assert "search_spaces.new_system" in sys.modules


def test_a_module_outside_the_package_registers_its_space_when_it_is_imported(
    write_module: Callable[..., str],
) -> None:
    importlib.import_module(write_module("outside_system", name="outside"))
    assert "outside" in search_spaces.names()
    space, table = search_spaces.find_table("new-1")
    assert (space.name, table.title) == ("outside", "A table")


def test_a_name_that_is_taken_is_refused(write_module: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="'stilt' is registered already by"):
        importlib.import_module(write_module("taken_space", name="stilt"))
    importlib.import_module(write_module("taken_table", name="zzz", table="stilt-4"))
    with pytest.raises(ValueError, match="'stilt' and 'zzz' both have a table 'stilt-4'"):
        search_spaces.tables()


def test_a_space_of_two_names_is_refused(write_module: Callable[..., str]) -> None:
    importlib.import_module(write_module("two_names", name="one", own_name="other"))
    with pytest.raises(ValueError, match="space 'other' is registered as 'one'"):
        search_spaces.get("one")


FORMS = """
from search_spaces import Arm, Settings, Space, register_space

def make(name):
    arms = (Arm(name="a", label="The A", model="stilt"),)
    return Space(
        name=name, title="T", arms=arms, search_arm="a", parameters=(), settings=Settings()
    )

@register_space("registered")
def of_another_name():
    return make("registered")

def function():
    return make("returned")

value = make("value")
NUMBER = 3
broken = lambda: 1 / 0
nothing = lambda: None
taken = make("stilt")
"""


@pytest.mark.parametrize("source", ["forms.py", "./forms.py", "forms"])
@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("registered", "registered"),
        ("of_another_name", "registered"),
        ("function", "returned"),
        ("value", "value"),
    ],
)
def test_a_file_and_a_module_in_the_current_folder_bring_a_space_in_every_form(
    source: str, attribute: str, name: str, plug_in_folder: Path
) -> None:
    (plug_in_folder / "forms.py").write_text(FORMS)
    for _ in range(2):  # the second time it is known
        assert search_spaces.load(f"{source}:{attribute}").name == name
    assert name in search_spaces.names()
    assert search_spaces.module_of(name) == "forms"
    _, table = search_spaces.find_table(name)
    assert [row.label for row in table.rows] == ["The A"], "without tables it has one of its arms"


def test_a_file_that_registers_one_space_needs_no_name(
    write_module: Callable[..., str], plug_in_folder: Path
) -> None:
    write_module("alone", name="only")
    (plug_in_folder / "folder").mkdir()
    (plug_in_folder / "alone.py").rename(plug_in_folder / "folder" / "alone.py")
    assert search_spaces.load("folder/alone.py").name == "only"


def test_the_projects_own_spaces_come_in_by_the_same_door(plug_in_folder: Path) -> None:
    stilt = search_spaces.get("stilt")
    assert search_spaces.load("stilt") is stilt
    assert search_spaces.load("search_spaces.stilt:stilt") is stilt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("form.py", "there is no file form.py"),
        ("form:value", "there is no module 'form'; it must be installed or in the current folder"),
        ("forms:vale", r"forms.py has no space 'vale': it must be the name of a registered space"),
        ("forms.py:NUMBER", "no space 'NUMBER': .* but is 3"),
        ("forms.py:broken", r"'broken' can't be made: .*forms.py, line 19 \(.*ZeroDivisionError"),
        ("forms.py:nothing", "forms: 'nothing' must return a Space, but returned None"),
        ("forms.py:taken", "a space 'stilt' is registered already by search_spaces.stilt"),
        ("none.py", "none.py registers none; name one as none.py:NAME"),
        ("form", "there is no space 'form'; there are all, .* own as FILE.py or MODULE:NAME"),
    ],
)
def test_what_is_no_space_of_a_plug_in_is_refused_in_one_line(
    text: str, said: str, plug_in_folder: Path
) -> None:
    (plug_in_folder / "forms.py").write_text(FORMS)
    (plug_in_folder / "none.py").write_text("")
    with pytest.raises(ValueError, match=said) as refused:
        search_spaces.load(text)
    assert "\n" not in str(refused.value)


def test_a_table_of_a_name_that_is_taken_is_refused_before_anything_runs(
    write_module: Callable[..., str],
) -> None:
    write_module("same_table", name="zzz", table="stilt-4")
    with pytest.raises(ValueError, match="'stilt' and 'zzz' both have a table 'stilt-4'"):
        search_spaces.load("same_table.py")


def test_unknown_spaces_and_tables_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="no space 'stilts'; there are all, attention"):
        search_spaces.get("stilts")
    with pytest.raises(ValueError, match=r"no table 'stilt-9' .*; there are all, attention"):
        search_spaces.find_table("stilt-9")


def test_the_spaces_need_no_more_than_the_models() -> None:
    """In a process of its own: the other tests have imported everything already."""
    code = "import sys, search_spaces; print(*sorted(sys.modules))"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    loaded = {name.partition(".")[0] for name in output.split()}
    assert "models" in loaded
    assert not loaded & {"study", "ray", "optuna", "duckdb"}
