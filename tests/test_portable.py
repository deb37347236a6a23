"""Exported arms, run where nothing of this project can be imported."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from models.fusion import Fitted
from study.portable import PortableArm, write_export
from study.prediction import find_arm, prepared
from study.results.store import ResultStore
from tests.test_prediction import test_videos
from tests.trained_study import APART, NAME

ALLOWED = {"torch", "torchgen", "functorch", "safetensors", "numpy"}
ALONE = """\
import runpy, sys

class Only:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.startswith("_sysconfigdata") or name.partition(".")[0] in allowed:
            return self.finder.find_spec(name, path, target)

allowed = {*sys.stdlib_module_names, *sys.argv.pop(1).split(",")}
sys.meta_path[:] = map(Only, sys.meta_path)
for name in ("study", "models", "torchvision", "sklearn"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def allowed() -> str:
    """Torch, safetensors and what torch itself needs."""
    needed = (re.split(r"[\s;<>=!~\[]", text)[0] for text in requires("torch") or ())
    names = {name.replace("-", "_") for name in needed if not name.startswith(("nvidia", "cuda"))}
    return ",".join(sorted({*names, *ALLOWED, "mpmath", "markupsafe"}))


def run_alone(folder: Path, *arguments: str) -> list[tuple[str, np.ndarray]]:
    """Runs an export's example in its folder; returns the class and scores of each video."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, allowed(), "example.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(label, np.array(scores, np.float64)) for label, *scores in lines]


@pytest.mark.parametrize("name", [APART, "two-stream-early", "stil-awf-l2"])
def test_the_example_gives_the_predictions_with_torch_and_safetensors_alone(
    name: str, tiny_store: Path, trained_results: Path, tmp_path: Path
) -> None:
    results = ResultStore(trained_results)
    arm = find_arm(results, study=NAME, arm=name, seed=1)
    folder = tmp_path / "export"
    assert {path.name for path in write_export(arm, results, folder)} == {
        *("README.md", "example.py", "fusion.json", "labels.json", "preprocessing.json"),
        *("program.pt2", "weights.safetensors"),
    }
    with prepared(list(test_videos(tiny_store).values())[:3], arm, workers=1) as videos:
        fused = arm.fuse(arm.score(videos.store, videos.videos))
        clips = arm.clips(videos.store, videos.videos)
    assert [len(one) for one in clips.values()] == [3, 3]
    safetensors.torch.save_file(clips, tmp_path / "clips.safetensors")
    found = run_alone(folder, str(tmp_path / "clips.safetensors"))
    for (label, scores), expected in zip(found, fused, strict=True):
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
        assert label == arm.network.classes[int(expected.argmax())]
    shapes = json.loads((folder / "preprocessing.json").read_text())
    assert {one: shapes[one]["shape"] for one in clips} == {
        one: list(values.shape[1:]) for one, values in clips.items()
    }
    said = {"segments", "frame_stride", "clips", "crops", "scales"}
    assert all(said <= shapes[one].keys() for one in clips)


def test_the_example_runs_without_clips(trained_results: Path, tmp_path: Path) -> None:
    results = ResultStore(trained_results)
    write_export(find_arm(results, study=NAME, arm="spatial"), results, tmp_path)
    ((label, scores),) = run_alone(tmp_path)
    assert label in json.loads((tmp_path / "labels.json").read_text())
    assert scores.sum() == pytest.approx(1)


def test_mirrored_views_count_for_the_mirrored_classes(
    tiny_store: Path, trained_results: Path
) -> None:
    arm = find_arm(ResultStore(trained_results), study=NAME, arm="spatial", seed=1)
    flipped = replace(arm.network, flip_classes=(2, 1, 0, 3))
    mirrored = replace(arm, networks={"spatial": flipped})
    with prepared([next(iter(test_videos(tiny_store).values()))], mirrored, workers=1) as videos:
        scores = mirrored.score(videos.store, videos.videos).scores["spatial"]
        clips = mirrored.clips(videos.store, videos.videos)
    with torch.no_grad():
        portable = PortableArm(mirrored).eval()(**clips)["spatial"]
        unflipped = PortableArm(arm).eval()(**clips)["spatial"]
    np.testing.assert_allclose(portable.numpy(), scores, rtol=1e-5, atol=1e-6)
    assert not np.allclose(unflipped.numpy(), scores)


def test_the_weights_and_the_fusion_are_those_of_the_arm(
    trained_results: Path, tmp_path: Path
) -> None:
    results = ResultStore(trained_results)
    arm = find_arm(results, study=NAME, arm="stil-awf-simplex", seed=2)
    write_export(arm, results, tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    for name, value in arm.network.state.items():
        assert torch.equal(weights[f"networks.0.{name}"], value)
    fusion = json.loads((tmp_path / "fusion.json").read_text())
    assert fusion["fusion_lambda"] == arm.row["fusion_lambda"]
    columns = np.array([fusion["weights"][stream] for stream in ("spatial", "temporal")])
    np.testing.assert_allclose(columns.T, json.loads(arm.row["details"])["weights"], atol=1e-6)


def test_the_model_card_is_made_of_the_rows(trained_results: Path, tmp_path: Path) -> None:
    results = ResultStore(trained_results)
    arm = find_arm(results, study=NAME, arm="stil", seed=2)
    write_export(arm, results, tmp_path)
    card = (tmp_path / "README.md").read_text()
    (training,) = results.read("trainings", keys=[arm.network.training_id]).to_pylist()
    for said in (
        f"{100 * arm.row['top1']:.1f}",
        "this network (split 1, seed 2)",
        "mean of 2 seeds",
        arm.network.training_id,
        arm.row["protocol"],
        training["device"],
        "short side of 32 pixels",
        "clipped at ±20 pixels",
    ):
        assert said in card


def test_what_can_not_be_exported_is_refused(trained_results: Path, tmp_path: Path) -> None:
    results = ResultStore(trained_results)
    arm = find_arm(results, study=NAME, arm="stil")
    own = replace(arm, fitted=Fitted(fuse=lambda part: part.scores["spatial"]))
    with pytest.raises(ValueError, match="fusion 'average' of stil can't be exported"):
        write_export(own, results, tmp_path / "own")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        write_export(arm, results, tmp_path / "full")
    short = replace(arm.network.hyperparameters, test_segments=1)
    apart = find_arm(results, study=NAME, arm=APART, seed=1)
    temporal = replace(apart.networks["temporal"], hyperparameters=short)
    both = replace(arm, networks={"spatial": arm.network, "temporal": temporal})
    with pytest.raises(ValueError, match="take different clips of flow"):
        write_export(both, results, tmp_path / "both")
    assert {path.name for path in tmp_path.iterdir()} == {"full"}
