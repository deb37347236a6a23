"""What the changes of ``docs/extending.md`` must do, once they are made.

``test_extending.py`` makes them in a copy of the project and runs these tests there; in the
project itself they have nothing to test, so pytest isn't told of them.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import search_spaces
from models import create_model
from models.fusion import FUSIONS
from search_spaces import Arm
from study import command, query
from study.data.datasets.catalog import annotate
from study.plan import Target, make_plan, settings_of
from study.results.store import ResultStore
from study.results.tables import load, render
from study.scores import Scores
from tests.sample_results import row, write_rows

ROOT = Path(__file__).parents[1]


def test_it_is_the_copy_that_is_tested() -> None:
    for module in (search_spaces, query):
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(ROOT)
    assert not (ROOT / ".git").exists()


def test_a_fusion() -> None:
    fusion = FUSIONS[Arm(name="a", label="A", model="tsn", fusion="product").fusion]
    streams = {
        "spatial": np.array([[0.5, 0.5, 0.0]], np.float32),
        "temporal": np.array([[0.125, 0.375, 0.5]], np.float32),
    }
    one_video = Scores(videos=["a"], labels=np.array([1]), scores=streams, features={})
    fused = fusion.fuse({"test": one_video}).parts["test"]
    np.testing.assert_allclose(fused, [[0.25, 0.75, 0.0]], atol=1e-300)


def test_an_arm_in_a_table(tmp_path: Path) -> None:
    space = search_spaces.get("cstm")
    arms = [space.arm(name) for name in ("cstm-two-stream", "cstm-two-stream-weighted")]
    plan = make_plan(
        arms,
        targets=[Target(dataset="ucf101", store_fingerprint="f", split="1")],
        seeds=[0],
        settings=lambda arm, _: settings_of(arm, space.settings, space=space),
    )
    assert (len(plan.rows), len(plan.trainings)) == (2, 1)
    store = ResultStore(tmp_path)
    write_rows(store, row("cstm-two-stream-weighted", 0.625, space="cstm", fusion="weighted"))
    (line,) = [line for line in render("cstm-ablation", store).splitlines() if "1 : 1.5" in line]
    assert line.startswith("CSTM, RGB + flow, 1 : 1.5 ")
    assert "62.5" in line


def test_a_search_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "consensus" in search_spaces.names()
    assert query.main(["--list"]) == command.DONE
    listed = capsys.readouterr().out
    assert re.search(r"^consensus-of-segments +Consensus of segments$", listed, re.MULTILINE)
    store = ResultStore(tmp_path)
    write_rows(store, row("maximum", 0.5, space="consensus", mean_class_accuracy=0.375))
    cells = load("consensus-of-segments", store).cells
    assert cells["maximum", "ucf101", "mean_class_accuracy"].mean == 0.375
    assert "Maximum, class by class" in render("consensus-of-segments", store)


def test_a_dataset(tmp_path: Path) -> None:
    lists = {
        "vocab": [["Back", "FREE"], ["Forward", "PIKE"]],
        "V2_train": [{"vid_name": "a_00000", "label": 1}],
        "V2_test": [{"vid_name": "b_00000", "label": 0}],
    }
    for name, content in lists.items():
        (tmp_path / f"Diving48_{name}.json").write_text(json.dumps(content))
    annotations = annotate("diving48", splits=tmp_path)
    assert [video.name for video in annotations.splits["1"].train] == ["Forward_PIKE/a_00000"]
    store = ResultStore(tmp_path / "results")
    write_rows(store, row("cstm", 0.5, space="cstm", dataset="diving48"))
    assert "Diving48" in render("cstm-ablation", store).splitlines()[2]


def test_a_model() -> None:
    torch.manual_seed(0)
    model = create_model("lse_pooling", num_classes=3, backbone="small", dropout=0.0)
    clips, labels = model.example_inputs(batch_size=3, frames=2, size=32), torch.arange(3)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        losses.append(F.cross_entropy(model(**clips).logits["spatial"], labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[1] < losses[0]
    comparators, everything = search_spaces.get("comparators"), search_spaces.get("all")
    assert comparators.on("embedded").arm("lse-pooling").default
    assert "lse-pooling" in comparators.tables[0].arms
    assert everything.arm("lse-pooling").label == "LSE pooling"
