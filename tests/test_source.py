"""What counts as a change of the code that makes a result, tried on copies of the source."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from search_spaces import Settings
from study import source
from study.plan import Target, make_training, meta_network, model_modules

EXAMPLE = '''"""Not counted."""
import math  # nor this


class Net:
    """Nor this."""

    size = 3

    def area(self, r: float) -> str:
        total = sum((r, self.size,))
        return f"{math.pi * total:.{self.size}f} λ {'m²' if r else ''}" + 'm'
'''
PYENV = ".pyenv/versions/*/bin"
DIGEST = "2385b9e675b0e9e3"


@pytest.fixture(scope="module")
def stilt() -> frozenset[str]:
    """The code of a STILT training on the small backbone."""
    training = make_training(
        "stilt",
        Settings(options={"backbone": "small"}),
        target=Target(dataset="d", store_fingerprint="f", split="1"),
        seed=0,
    )
    return model_modules(meta_network(training)).union(source.TRAINING)


@pytest.fixture(scope="module")
def original(stilt: frozenset[str]) -> str:
    return source.source_version(stilt)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for package in source.PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source.ROOT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


def appended(text: str) -> Callable[[str], str]:
    return lambda before: before + text


CODE = appended("\n\nEXTRA = 1\n")

MUST_RETRAIN = {
    "Nesterov momentum": (
        "study/training/loop.py",
        replaced("momentum=hyperparameters.momentum", "nesterov=True, momentum=0.9"),
    ),
    "the positions of segments": (
        "study/data/clips/sampling.py",
        replaced("rng.integers(0, positions, segments)", "rng.integers(0, 1, segments)"),
    ),
    "how flow is normalised": (
        "study/data/clips/transforms.py",
        replaced("FLOW_STD = 0.226", "FLOW_STD = 0.5"),
    ),
    "how images are normalised": (
        "models/backbones/base.py",
        replaced("IMAGENET_MEAN = (0.485,", "IMAGENET_MEAN = (0.5,"),
    ),
    "the views of a training": ("study/training/clips.py", replaced("else 1", "else 2")),
    "the fields of a stack": ("study/data/store/record.py", replaced("- 1 - start", "- start")),
    "half of the train videos": (
        "study/data/datasets/parts.py",
        replaced("train=present(train)", "train=present(train[::2])"),
    ),
    "the carved validation part": (
        "study/data/datasets/validation.py",
        replaced("fraction: float = 0.2, seed: int = 0", "fraction: float = 0.2, seed: int = 1"),
    ),
    "the softmax of scores": (
        "study/training/evaluation.py",
        replaced(".softmax(-1)", ".sigmoid()"),
    ),
    "the initial weights": (
        "study/training/initialisation.py",
        replaced("torch.manual_seed(seed)", "torch.manual_seed(seed + 1)"),
    ),
    "the model": ("models/stilt.py", replaced("feature.mean(dim=1)", "feature.amax(dim=1)")),
    "a layer of the model": ("models/layers/attention.py", CODE),
    "the model's backbone": ("models/backbones/small.py", CODE),
    "what all models share": ("models/video_model.py", CODE),
    "a default of the hyperparameters": (
        "study/training/hyperparameters.py",
        replaced("momentum: float = 0.9", "momentum: float = 0.8"),
    ),
    "a type annotation": (
        "models/stilt.py",
        replaced("attention: dict[str, Tensor] = {}", "attention = {}"),
    ),
}

MUST_NOT = {
    "a comment": ("study/training/loop.py", appended("\n# A remark.\n")),
    "a docstring": (
        "models/stilt.py",
        replaced('"""Classifies B clips; see', '"""Says the classes of clips; see'),
    ),
    "a new docstring": (
        "study/training/evaluation.py",
        replaced(
            "views = len(data.mirrored_views)", '"""New."""\n    views = len(data.mirrored_views)'
        ),
    ),
    "a line broken by the formatter": (
        "study/training/clips.py",
        replaced(
            "segments=hyperparameters.test_segments if views",
            "segments=\n  hyperparameters.test_segments\n  if views",
        ),
    ),
    "arguments on lines of their own": (
        "study/data/clips/sampling.py",
        replaced(
            "view_positions(positions, segments, clips=1)",
            "view_positions(\n        positions,\n        segments,\n        clips=1,\n    )",
        ),
    ),
    **{
        path: (path, CODE)
        for path in (
            "models/stin.py",
            "models/tsn.py",
            "models/backbones/resnet.py",
            "models/layers/non_local.py",
            "models/fusion.py",
            "search_spaces/stilt.py",
            "study/agenda.py",
            "study/cluster/queue.py",
            "study/conduct.py",
            "study/data/flow/tvl1.py",
            "study/data/store/clip_store.py",
            "study/data/store/manifest.py",
            "study/data/store/remote.py",
            "study/data/store/upload.py",
            "study/data/video/decoders.py",
            "study/files.py",
            "study/job.py",
            "study/plan.py",
            "study/report.py",
            "study/request.py",
            "study/results/rows.py",
            "study/results/schema.py",
            "study/run.py",
            "study/search.py",
            "study/source.py",
            "study/terminal.py",
            "study/training/checkpoint.py",
            "study/training/memory.py",
            "study/training/weights.py",
        )
    },
}


def edited(root: Path, path: str, edit: Callable[[str], str]) -> None:
    file = root / path
    file.write_text(edit(file.read_text(encoding="utf-8")), encoding="utf-8")


def test_a_copy_of_the_source_is_the_same_code(root: Path, stilt: frozenset[str], original: str):
    assert source.source_version(stilt, root=root) == original


@pytest.mark.parametrize("what", MUST_RETRAIN)
def test_an_edit_that_can_change_the_result_is_other_code(
    what: str, root: Path, stilt: frozenset[str], original: str
):
    edited(root, *MUST_RETRAIN[what])
    assert source.source_version(stilt, root=root) != original


@pytest.mark.parametrize("what", MUST_NOT)
def test_an_edit_that_cannot_change_the_result_is_the_same_code(
    what: str, root: Path, stilt: frozenset[str], original: str
):
    edited(root, *MUST_NOT[what])
    assert source.source_version(stilt, root=root) == original


def test_imports_inside_functions_count(tmp_path: Path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "one.py").write_text("def f():\n    from models import two\n    return two.x\n")
    (models / "two.py").write_text("x = 1\n")
    before = source.source_version(frozenset({"models.one"}), root=tmp_path)
    (models / "two.py").write_text("x = 2\n")
    source.source_version.cache_clear()
    assert source.source_version(frozenset({"models.one"}), root=tmp_path) != before


def test_relative_imports_count(tmp_path: Path):
    layers = tmp_path / "models" / "layers"
    layers.mkdir(parents=True)
    (layers / "one.py").write_text("from . import two\nfrom ..three import x\n")
    for path in (layers / "two.py", tmp_path / "models" / "three.py"):
        path.write_text("x = 1\n")
    names = source._closure(["models.layers.one"], tmp_path)
    assert names.keys() == {"models.layers.one", "models.layers.two", "models.three"}


@pytest.mark.parametrize("form", ["file", "package"])
def test_every_edit_of_a_plug_in_is_other_code(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = f"plug_in_{form}"
    if form == "file":
        module, part = name, tmp_path / f"{name}.py"
        part.write_text("x = 1\n")
    else:
        module, part = f"{name}.net", tmp_path / name / "layers.py"
        part.parent.mkdir()
        for file in ("__init__", "net", "layers"):
            (part.parent / f"{file}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    versions = set()
    for text in ("x = 1\n", "x = 2\n", "from models.layers import shift\nx = 2\n"):
        part.write_text(text)
        source.source_version.cache_clear()
        versions.add(source.source_version(frozenset({module})))
    assert len(versions) == 3
    files = source._closure([module], source.ROOT)
    assert "models.layers.shift" in files


def test_what_lies_beside_a_plug_in_and_is_imported_is_its_own(plug_in_folder: Path):
    (plug_in_folder / "package").mkdir()
    for name, text in {
        "net.py": "import torch, beside, study.scores",
        "beside.py": "import package.layers",
        "package/__init__.py": "import net",
        "package/layers.py": "",
        "package/.hidden.py": "",
        "unused.py": "",
    }.items():
        (plug_in_folder / name).write_text(text)
    sys.path.append(str(plug_in_folder))
    mine = {"net.py", "beside.py", "package/__init__.py", "package/layers.py"}
    files = source._closure(["net"], source.ROOT)
    assert files.keys() == {*mine, "study.scores"}
    assert source.plug_in_files(["net"]).keys() == mine
    assert source.plug_in_files(["package.layers"]).keys() == mine
    (plug_in_folder / "lab-1.0.dist-info").mkdir()  # now it is a folder of installed libraries
    assert source.plug_in_files(["net"]).keys() == {"net.py"}


def test_a_module_without_a_source_file_is_refused():
    with pytest.raises(ValueError, match=r"'builtins' has no source file.*write the model to"):
        source.source_version(frozenset({"builtins"}))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("f(a, b)", "f(\n    a,\n    b,  # this\n)", True),
        ("x = [1, 2]", "x = [\n    1,\n    2,\n]", True),
        ("x = (1, 2)", "x = (1, 2,)", True),
        ("x[a, b]", "x[a, b,]", True),
        ("f((a, b))", "f((a, b),)", True),
        ("x = (1)", "x = (1,)", False),
        ("x[a]", "x[a,]", False),
        ("return_ = not (1)", "return_ = not (1,)", False),
        ("if a:\n    b\nc", "if a:\n    b\n    c", False),
        ("x = 'a'", "x = 'b'", False),
        ("x = f'{a}'", "x = f'{b}'", False),
        ("x = f'{a!r:>{w}}' 'b'", "x = f'{a!r:<{w}}' 'b'", False),
        ("def f():\n    'doc'\n    return 1", "def f():\n    return 1", True),
        ("x = 1\n\n\n# why\ny = 2", "x = 1\ny = 2\n", True),
    ],
)
def test_tokens_differ_where_the_meaning_may(one: str, other: str, same: bool):
    assert (source.source_tokens(one) == source.source_tokens(other)) is same


def test_the_digest_of_a_source_is_the_same_on_every_machine(tmp_path: Path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "example.py").write_text(EXAMPLE, encoding="utf-8")
    assert source.source_version(frozenset({"study.example"}), root=tmp_path) == DIGEST


def other_pythons() -> list[str]:
    """The other supported versions of Python that are on this machine."""
    folders = [*os.environ["PATH"].split(os.pathsep), *map(str, Path.home().glob(PYENV))]
    found = {}
    for folder, minor in product(folders, (11, 12, 13)):
        python = Path(folder, f"python3.{minor}")
        if minor != sys.version_info.minor and python.is_file() and "shims" not in folder:
            found[minor] = str(python)
    return list(found.values())


@pytest.mark.parametrize("python", other_pythons())
def test_the_version_of_every_module_is_the_same_under_every_python(python: str):
    script = (
        "from pathlib import Path\nfrom study.source import ROOT, PACKAGES, source_version\n"
        "files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob('*.py'))]\n"
        "names = ['.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in files]\n"
        "print(source_version(frozenset(n.removesuffix('.__init__') for n in names)))\n"
    )
    versions = {
        subprocess.run(
            [executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=source.ROOT,
            env={**os.environ, "PYTHONPATH": str(source.ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        ).stdout
        for executable in (sys.executable, python)
    }
    assert len(versions) == 1
