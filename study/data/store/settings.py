"""What a clip store is made with, and the file that says so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.checks import check_number, check_one_of
from study.data.flow.compute import FlowSettings
from study.data.flow.planes import CODECS
from study.data.store.remote import is_uri
from study.files import write_whole

__all__ = [
    "FORMAT",
    "StoreSettings",
    "parse_settings",
    "read_settings",
    "stack_pairs",
    "stack_starts",
    "to_json",
    "write_settings",
]

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """All that decides what a store holds of a video.

    Attributes:
        dataset: The dataset's name.
        short_side: Short side of the pictures in pixels.
        frame_step: Every how many-th frame counts, from the first on.
        stacks: Stacks stored of a video, each one frame and `flow_length` flow fields; None stores
            every frame and every field.
        flow_length: Flow fields in a stored stack; without `stacks` it means nothing.
        flow: How flow is computed; None where it comes precomputed.
        flow_codec: ``lz4``, which loses nothing, or ``jpeg``, which takes less space and longer to
            read (`study.data.flow.planes`).
        jpeg_quality: Of the frames, and of flow as JPEG: 1 to 100.

    Raises:
        ValueError: If a value is out of range, or a frame step is asked of precomputed flow.
    """

    dataset: str
    short_side: int = 256
    frame_step: int = 1
    stacks: int | None = None
    flow_length: int = 10
    flow: FlowSettings | None = field(default_factory=FlowSettings)
    flow_codec: str = "lz4"
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        for name, least, most in (
            ("short_side", 8, 4096),
            ("frame_step", 1, 1000),
            ("stacks", 1, 10_000),
            ("flow_length", 1, 1000),
            ("jpeg_quality", 1, 100),
        ):
            if name != "stacks" or self.stacks is not None:
                check_number(name, getattr(self, name), whole=True, least=least, most=most)
        check_one_of("flow_codec", self.flow_codec, CODECS)
        if self.flow is None and self.frame_step != 1:
            raise ValueError(
                "precomputed flow leads from each frame to the next, so frame_step must be 1 with "
                f"it, got {self.frame_step}"
            )

    @property
    def flow_backend(self) -> str:
        """What computes the flow, or "precomputed"."""
        return "precomputed" if self.flow is None else self.flow.backend

    @property
    def bound(self) -> float:
        """Flow in pixels that the stored byte 255 means."""
        return 20.0 if self.flow is None else self.flow.bound

    def changed(
        self,
        *,
        flow_backend: str | None = None,
        flow_options: Sequence[str] = (),
        precomputed: bool = False,
        **values: Any,
    ) -> "StoreSettings":
        """Returns the settings with others in their place.

        Args:
            flow_backend: What computes the flow, see `FlowSettings.with_backend`; None leaves it.
            flow_options: Each "NAME=VALUE", see `FlowSettings.with_options`.
            precomputed: Whether flow is taken as it was computed before, and not computed; False
                leaves it as it is unless a backend or option is given.
            **values: Other settings by name; None leaves one as it is.

        Raises:
            ValueError: If a value isn't allowed, or has no effect with the others.
        """
        if precomputed and (flow_backend or flow_options):
            raise ValueError("precomputed flow is taken as it is: give no flow backend or option")
        flow = None if precomputed else self.flow
        if flow_backend or flow_options:
            flow = flow or FlowSettings()
            flow = flow.with_backend(flow_backend or flow.backend).with_options(flow_options)
        given = {name: value for name, value in values.items() if value is not None}
        settings = replace(self, flow=flow, **given)
        if "flow_length" in given and settings.stacks is None:
            raise ValueError(
                "flow_length is that of stored stacks and needs stacks; without them all flow is "
                "stored, for stacks of any length"
            )
        return settings

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings that matter, by name, flow's as "flow.name"; JSON values only."""
        plain = asdict(self)
        del plain["flow"]
        flow = {"backend": "precomputed"} if self.flow is None else self.flow.to_dict()
        if self.stacks is None:
            del plain["flow_length"]
        return {**plain, **{f"flow.{name}": value for name, value in flow.items()}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "StoreSettings":
        """Reads what `to_dict` returns."""
        flow = {k.removeprefix("flow."): v for k, v in plain.items() if k.startswith("flow.")}
        known = {setting.name for setting in fields(cls)}
        return cls(
            **{name: value for name, value in plain.items() if name in known},
            flow=None if flow["backend"] == "precomputed" else FlowSettings.from_dict(flow),
        )


def stack_starts(frames: int, settings: StoreSettings) -> NDArray[np.int32]:
    """Returns the frames that are stored, each the start of a stack.

    Without stacks: every frame that has a next one. With K stacks: the possible starts of a whole
    stack are cut into K equal parts, and each part's centre is taken; a video too short for K
    different ones has fewer.
    """
    if settings.stacks is None:
        return np.arange(frames - 1, dtype=np.int32)
    possible = max(1, frames - settings.flow_length)
    k = np.arange(settings.stacks)
    return np.unique((2 * k + 1) * possible // (2 * settings.stacks)).astype(np.int32)


def stack_pairs(
    starts: NDArray[np.int32], frames: int, settings: StoreSettings
) -> NDArray[np.int32]:
    """Returns the first frames of the pairs whose flow the stacks at `starts` need, ascending."""
    if settings.stacks is None:
        return starts
    every = (starts[:, None] + np.arange(settings.flow_length, dtype=np.int32)).ravel()
    return np.unique(every[every <= frames - 2])


def read_settings(path: Path) -> StoreSettings:
    """Reads the settings of a store, finished or not.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it is of another format.
    """
    file = path / "settings.json"
    return parse_settings(file.read_bytes() if file.exists() else None, path)


def parse_settings(content: bytes | None, path: str | Path) -> StoreSettings:
    """Reads the content of a settings file; None means that there is no such file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another format.
    """
    if content is None:
        how = f"--store DIR … --upload {path}`" if is_uri(path) else f"--store {path} …`"
        raise FileNotFoundError(
            f"no clip store in {path}: it has no settings.json; make one with "
            f"`python -m study.prepare DATASET {how}"
        )
    plain = json.loads(content)
    if plain.pop("format") != FORMAT:
        raise ValueError(f"clip store {path} is of another format; prepare it again elsewhere")
    return StoreSettings.from_dict(plain)


def write_settings(path: Path, settings: StoreSettings) -> None:
    """Writes the settings of a new store."""
    write_whole(path / "settings.json", to_json({"format": FORMAT, **settings.to_dict()}))


def to_json(value: Any) -> bytes:
    """Returns the content of a store's JSON file."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
