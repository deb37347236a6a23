"""What is said of a plug-in that can't be imported, and what installed packages bring."""

from pathlib import Path

import pytest

import search_spaces
from models import create_model, list_models
from models.plugins import PluginError, import_named
from study.data.datasets.catalog import list_datasets, load_dataset

MODEL = """
from models import register_model
from models.segment_network import SegmentNetwork, SegmentOptions

@register_model("{name}", SegmentOptions)
class Model(SegmentNetwork):
    pass
"""
DATASET = """
from study.data.datasets.annotations import Annotations
from study.data.datasets.reader import register_dataset

@register_dataset("{name}", title="T", needs=("videos",))
def annotate(videos):
    return Annotations(dataset="{name}", classes=("a",), splits={{}}, flip_classes=(0,))
"""
SPACE = """
from search_spaces import Arm, Settings, Space, register_space

@register_space("lab-space")
def space():
    arms = (Arm(name="a", label="A", model="lab-model"),)
    return Space(
        name="lab-space", title="T", arms=arms, search_arm="a", parameters=(), settings=Settings()
    )
"""

BROKEN = {
    "a missing library": ("import no_such_library\n", "line 1 (import no_such_library): Module"),
    "an error": ("x = 1\n\nx.y\n", "line 3 (x.y): AttributeError: 'int' object has no"),
    "no Python": ("def f(:\n", "line 1: SyntaxError"),
    "an exit": ("raise SystemExit('usage: this is a script')\n", "usage: this is a script"),
    "an error of two lines": ("raise ValueError('one\\ntwo')\n", "ValueError: one two"),
    "a model that there is": (MODEL.format(name="tsn"), "a model 'tsn' is registered already by "),
    "an error beside it": ("import beside\n", "beside.py, line 2 (1 / 0): ZeroDivisionError"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("text", ["broken.py", "broken:space"])
def test_an_error_in_a_plug_in_is_one_line_that_names_its_line(
    what: str, text: str, plug_in_folder: Path
) -> None:
    content, said = BROKEN[what]
    (plug_in_folder / "broken.py").write_text(content)
    (plug_in_folder / "beside.py").write_text("x = 1\n1 / 0\n")
    with pytest.raises(PluginError) as refused:
        import_named(text)
    assert str(refused.value).startswith("module 'broken' can't be imported: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("my-space.py", "module 'my-space', which is no name in Python"),
        ("json.py", "imported as module 'json', but there is another of that name, .*json/__init"),
        ("models.py", "imported as module 'models', but there is another of that name"),
    ],
)
def test_a_file_that_cannot_be_a_module_of_its_name_is_refused(
    file: str, said: str, plug_in_folder: Path
) -> None:
    (plug_in_folder / file).write_text("")
    with pytest.raises(PluginError, match=said):
        import_named(file)


def test_a_file_of_another_folder_takes_no_others_name(plug_in_folder: Path) -> None:
    for folder in ("one", "two"):
        (plug_in_folder / folder).mkdir()
        (plug_in_folder / folder / "same.py").write_text(f"FOLDER = {folder!r}\n")
    assert import_named("one/same.py")[0].FOLDER == "one"
    with pytest.raises(PluginError, match=r"there is another of that name, .*one/same\.py"):
        import_named("two/same.py")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    """Writes a module for each group and names it there, as an installer does."""
    for group, content in modules.items():
        (folder / f"lab_{group}.py").write_text(content)
    about = folder / "lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "".join(f"[two_stream_study.{group}]\nlab = lab_{group}\n" for group in modules)
    )
    monkeypatch.syspath_prepend(folder)


def test_what_an_installed_package_brings_is_found_by_its_entry_points(
    plug_in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        plug_in_folder,
        monkeypatch,
        models=MODEL.format(name="lab-model"),
        datasets=DATASET.format(name="lab-videos"),
        spaces=SPACE,
    )
    assert "lab-model" in list_models()
    assert "lab-videos" in list_datasets()
    assert search_spaces.get("lab-space").arm("a").model == "lab-model"
    assert create_model("lab-model", num_classes=2, backbone="small").model_name == "lab-model"


def test_a_broken_installed_package_is_named_until_it_is_repaired(
    plug_in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(plug_in_folder, monkeypatch, spaces="1 / 0\n")
    for _ in range(2):
        with pytest.raises(
            PluginError, match=r"ZeroDivisionError.* \(lab 1\.0 names it"
        ) as refused:
            search_spaces.names()
        assert "repair or uninstall the package" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_dataset_is_read_by_a_file_of_ones_own(plug_in_folder: Path) -> None:
    (plug_in_folder / "mine.py").write_text(DATASET.format(name="my-videos"))
    for text in ("mine.py", "mine.py:my-videos", "mine.py:annotate", "mine:annotate"):
        assert load_dataset(text) == "my-videos"
    assert load_dataset("ucf101") == "ucf101"
    with pytest.raises(PluginError, match=r"mine\.py:other must name one dataset .* my-videos"):
        load_dataset("mine.py:other")
