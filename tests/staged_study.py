"""A study of towers and of a network that is fused from them, small enough to be trained."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.space import STREAMS, Arm, Choice, Settings, Space
from study.data.datasets.annotations import Video
from study.data.store.clip_store import ClipStore
from study.data.store.manifest import write_manifest
from study.request import Request, Study, check_request

TOWERS = Arm(name="towers", label="Towers", model="two_stream")
SPATIAL = Arm(name="spatial", label="Spatial tower", model="two_stream", fusion="spatial")
FUSED = Arm(
    name="fused",
    label="Fused",
    model="conv_fusion",
    options={"freeze_towers": True, "conv": "2d", "pool": "2d"},
    starts_from=dict.fromkeys(STREAMS, TOWERS),
)


def space_of(*arms: Arm, layers: tuple[Any, ...] = ()) -> Space:
    """A space of arms, with the fusion layers that are searched."""
    return Space(
        name="staged",
        title="Towers and what is fused from them",
        arms=arms,
        search_arm=arms[0].name,
        parameters=(Choice(name="options.layers", choices=layers),) if layers else (),
        settings=Settings(
            options={"backbone": "small", "head_dims": (8,), "dropout": 0.0},
            hyperparameters={
                "epochs": 2,
                "batch_size": 8,
                "segments": 2,
                "test_segments": 2,
                "learning_rate": 0.02,
            },
        ),
    )


def staged_study(
    store: Path, results: Path, *arms: Arm, space: Space | None = None, **asked: Any
) -> Study:
    """A study of these arms, at fixed settings unless asked otherwise."""
    fixed: dict[str, Any] = {"trials": 0, "tuning": "fixed", "seeds": 1, "weights": "none"}
    return check_request(
        Request(
            space=space or space_of(*arms),
            store=store,
            results=str(results),
            name="staged",
            **{**fixed, **asked},
        )
    )


def merged_classes(store: Path, folder: Path) -> Path:
    """The store's clips with two classes in the place of four: another store."""

    def merged(video: Video) -> Video:
        return replace(video, label=video.label // 2)

    path = Path(shutil.copytree(store, folder))
    own = ClipStore.open(path)
    splits = {
        name: replace(
            split, train=tuple(map(merged, split.train)), test=tuple(map(merged, split.test))
        )
        for name, split in own.annotations.splits.items()
    }
    annotations = replace(
        own.annotations, classes=("first", "second"), flip_classes=(0, 1), splits=splits
    )
    write_manifest(path, own.settings, annotations, own.locations(), {})
    return path
