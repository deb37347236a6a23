import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import search_spaces
from benchmarks import models as benchmark
from models import create_model
from search_spaces.space import Arm
from study.data.datasets.catalog import annotate
from study.data.datasets.embedded import CLASS_GROUPS
from study.request import Study
from study.results.predictions import prediction_block
from study.results.store import ResultStore
from tests.sample_results import PROTOCOL, row, training, write_rows

SPACE = search_spaces.get("all").on("embedded")
MEANS_OVER_PLACES = ("trn", "stin")  # are all that these know of the order of frames


@pytest.mark.parametrize(
    "arm", [arm for arm in SPACE.arms if arm.default], ids=lambda arm: arm.name
)
def test_a_net_whose_streams_see_neither_each_other_nor_the_order_of_frames_has_a_ceiling(
    arm: Arm,
) -> None:
    settings = SPACE.settings.updated(arm.own)
    torch.manual_seed(0)
    net = create_model(arm.model, num_classes=10, **settings.options).eval()
    for parameter in net.parameters():  # what mixes frames may begin at zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    inputs = net.example_inputs(frames=max(3, net.min_frames), size=56)
    with torch.no_grad():
        logits = net(**inputs).logits
        turned = net(**{name: frames.flip(1) for name, frames in inputs.items()}).logits
    ordered = any(not torch.allclose(one, turned[name], atol=1e-5) for name, one in logits.items())
    sees = benchmark.SEES.get(arm.model, "joint")
    if net.independent_streams and not ordered:
        assert sees == ("independent" if len(net.streams) == 2 else "frames")
    elif arm.model not in MEANS_OVER_PLACES:
        assert sees == "joint"


def test_ceilings_are_over_all_classes() -> None:
    found = {sees: benchmark._ceiling(sees) for sees in ("frames", "independent", "joint")}
    assert found == pytest.approx(
        {"frames": (2 + 4 / 4 + 4 / 2) / 10, "independent": (2 + 4 + 4 / 2) / 10, "joint": 1}
    )


@pytest.mark.parametrize(
    ("sees", "top1", "which", "loss", "said"),
    [
        ("joint", 0.98, 0.95, 0.1, ""),
        ("joint", 0.81, 0.5, 0.1, "which not beyond its training videos"),
        ("joint", 0.6, 0.5, 1.2, "what and how and which not learnt yet"),
        ("independent", 0.8, 0.5, 1.0, ""),
        ("independent", 0.7, 0.3, 1.0, "which not beyond its training videos"),
    ],
)
def test_a_network_far_below_its_ceiling_says_what_it_misses_and_whether_it_was_learnt(
    sees: str, top1: float, which: float, loss: float, said: str
) -> None:
    others = dict.fromkeys(("what", "how"), 0.6 if top1 == 0.6 else 1.0)
    accuracies = {"top1": top1, "half_width": 0.02, **others, "which": which}
    why = benchmark.why_below(sees, accuracies, loss)
    assert why.startswith(said)
    assert bool(why) == bool(said)


def test_the_least_losses_are_those_of_guessing_among_what_looks_alike() -> None:
    spatial = {"what": 1, "how": 4, "which": 2}  # classes that a colour frame leaves alike
    temporal = {"what": 2, "how": 1, "which": 2}  # and grey motion
    groups = list(CLASS_GROUPS.values())
    least = [np.mean([np.log(alike[group]) for group in groups]) for alike in (spatial, temporal)]
    assert benchmark.LEAST_LOSS["frames"] == pytest.approx(least[0])
    assert benchmark.LEAST_LOSS["independent"] == pytest.approx(sum(least))


def test_an_arms_line_has_its_seeds_together(tmp_path: Path) -> None:
    annotations = annotate("embedded")
    results = ResultStore(str(tmp_path))
    one = {"study": "all-embedded", "dataset": "embedded"}
    videos = annotations.splits["1"].test
    labels = np.array([video.label for video in videos])
    wrong_of_seed = {0: "how", 1: "which", 2: None}
    for seed, wrong in wrong_of_seed.items():
        identity: dict[str, Any] = {**one, "seed": seed, "training_id": f"t{seed}"}
        group_of = [annotations.class_groups[name] for name in annotations.classes]
        shift = np.array([group_of[label] == wrong for label in labels])
        scores = np.eye(10)[(labels + shift) % 10]
        test = row("tsn", 0.5, **identity)
        write_rows(results, test)
        block = prediction_block(
            test,
            videos=[video.name for video in videos],
            labels=labels,
            scores=scores,
            groups={},
        )
        results.write_blocks("predictions", f"p{seed}", [block])
        about: dict[str, Any] = {"parameters": 7, "gflops": 0.5, "epochs": 2, "device": "a core"}
        results.write("trainings", f"t{seed}", [training(**identity, **about)])
        measured = (1, 9.0, 10.0 + seed), (2, 1.0 + seed, 5.0)
        names = (
            "epoch",
            "train_loss",
            "clips_per_second",
            "training_id",
            "lr",
            "losses",
            "seconds",
        )
        same: tuple[Any, ...] = (f"t{seed}", 0.01, {}, 1.0)
        epochs = [dict(zip(names, (*values, *same), strict=True)) for values in measured]
        results.write("epochs", f"t{seed}", epochs)
    study = SimpleNamespace(
        name="all-embedded",
        request=SimpleNamespace(results=str(tmp_path)),
        protocol=PROTOCOL,
        targets=[SimpleNamespace(dataset="embedded")],
        store=SimpleNamespace(annotations=annotations),
        space=SPACE,
        trials=0,
    )

    [line] = benchmark.lines(cast(Study, study))
    assert line["top1"] == pytest.approx((0.6 + 0.6 + 1) / 3, abs=1e-3)
    assert [line[group] for group in benchmark.GROUPS] == pytest.approx([1, 2 / 3, 2 / 3], abs=1e-3)
    # Seeds differ far more than videos do: about Student's t of 2 degrees times s / √3.
    assert line["half_width"] == pytest.approx(4.303 * np.std([0.6, 0.6, 1], ddof=1) / 3**0.5, 0.05)
    assert (line["ceiling"], line["sees"]) == (0.8, "independent")
    assert (line["train_loss"], line["clips_per_second"], line["seeds"]) == (2.0, 12.0, 3)


def test_the_committed_table_names_arms_of_the_space() -> None:
    with Path(benchmark.__file__).with_name("models.csv").open() as file:
        arms = [line["arm"] for line in csv.DictReader(file)]
    assert set(arms) <= {arm.name for arm in SPACE.arms}
