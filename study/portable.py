"""A trained arm as files that run without this project: program, weights, fusion and model card."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from models.fusion import LinearClassifier, WeightedSum
from study.data.clips.transforms import FLOW_STD, normalise
from study.prediction import TrainedArm, mirrored_views
from study.results.findings import between, points
from study.results.grids import Grid, markdown_text
from study.results.predictions import judgements
from study.results.statistics import Judgements, aligned
from study.results.store import ResultStore

__all__ = ["PortableArm", "check_onnx", "write_export"]

RTOL, ATOL = 1e-4, 1e-5  # of a program's scores, as the order of sums differs
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLE = '''\
"""Scores clips with torch and safetensors alone: python example.py [clips.safetensors]."""

import json
import sys

import torch
from safetensors.torch import load_file

labels, made = (json.load(open(f"{name}.json")) for name in ("labels", "preprocessing"))
shapes = {name: made[name]["shape"] for name in ("rgb", "flow") if name in made}
grey = {name: torch.full([1, *shape], 127, dtype=torch.uint8) for name, shape in shapes.items()}
clips = load_file(sys.argv[1]) if len(sys.argv) > 1 else grey
program = torch.export.load("program.pt2").module()
for scores in program(**clips)["fused"]:
    print(labels[scores.argmax()], *scores.tolist())
'''


class PortableArm(nn.Module):
    """Networks and fusion as one module of tensor operations: bytes in, scores out.

    Args:
        arm: The trained arm.

    Raises:
        ValueError: If its fusion is neither a weighted sum of scores nor linear in the features,
            or its networks take different clips of one input.
    """

    def __init__(self, arm: TrainedArm) -> None:
        super().__init__()
        self.shapes = _shapes(arm)
        self.networks = nn.ModuleList(network.build() for network, _ in arm.distinct)
        self._read = [
            (network.inputs, streams, mirrored_views(network)) for network, streams in arm.distinct
        ]
        self.fusion = _fusion(arm)
        self.register_buffer("flip_classes", torch.tensor(arm.network.flip_classes))

    def example(self, videos: int, *, seed: int) -> dict[str, Tensor]:
        """Returns random clips of some videos, by input."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randint(256, (videos, *shape), dtype=torch.uint8, generator=generator)
            for name, shape in self.shapes.items()
        }

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Scores the V views of B videos.

        Args:
            rgb: Frames, (B, V, T, 3, S, S) uint8; needed where ``shapes`` names it.
            flow: Stacks in the order x1, y1, x2, …, (B, V, T, 2L, S, S) uint8; likewise.

        Returns:
            By stream the softmax scores, and as ``fused`` those of the arm; (B, N) each.
        """
        given = {"rgb": rgb, "flow": flow}
        scores: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        for net, (names, streams, mirrored) in zip(self.networks, self._read, strict=True):
            output = net(**{name: _as_clips(given[name], name) for name in names})
            for stream in streams:
                logits = _by_view(output.logits[stream], len(mirrored))  # V of (B, N)
                flipped = [
                    one[:, self.get_buffer("flip_classes")] if is_mirrored else one
                    for one, is_mirrored in zip(logits, mirrored, strict=True)
                ]
                scores[stream] = torch.stack(flipped).mean(0).softmax(-1)
                vectors = _by_view(output.features[stream], len(mirrored))
                features[stream] = torch.stack(vectors).mean(0)
        return {**scores, "fused": self.fusion(scores, features)}


def _as_clips(clips: Tensor | None, name: str) -> Tensor:
    """Returns the views of all videos as normalised clips, (B·V, T, C, S, S)."""
    if clips is None:
        raise ValueError(f"the program takes {name}, but it is missing")
    return normalise(clips[:, 0] if clips.shape[1] == 1 else clips.flatten(0, 1), name)


def _by_view(rows: Tensor, views: int) -> tuple[Tensor, ...]:
    return (rows,) if views == 1 else rows.unflatten(0, (-1, views)).unbind(1)


class _WeightedSum(nn.Module):
    """Σ_s weights[s] · scores_s."""

    def __init__(self, rule: WeightedSum) -> None:
        super().__init__()
        self._streams = tuple(rule.weights)
        for stream, weights in rule.weights.items():
            self.register_buffer(stream, torch.tensor(weights, dtype=torch.float32))

    def forward(self, scores: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
        products = [self.get_buffer(stream) * scores[stream] for stream in self._streams]
        return torch.stack(products).sum(0)


class _LinearClassifier(nn.Module):
    """(features - mean) · weightᵀ + bias; one less than the least for classes never seen."""

    def __init__(self, rule: LinearClassifier) -> None:
        super().__init__()
        self._streams = rule.streams
        for name in ("mean", "weight", "bias"):
            values = np.ascontiguousarray(getattr(rule, name))
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        rows = np.full(rule.num_classes, len(rule.classes))
        rows[rule.classes] = np.arange(len(rule.classes))
        self.register_buffer("rows", torch.tensor(rows))

    def forward(self, scores: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
        joined = torch.cat([features[stream] for stream in self._streams], dim=1)
        values = nn.functional.linear(
            joined - self.get_buffer("mean"), self.get_buffer("weight"), self.get_buffer("bias")
        )
        unseen = values.amin(dim=1, keepdim=True) - 1
        return torch.cat([values, unseen], dim=1)[:, self.get_buffer("rows")]


def _fusion(arm: TrainedArm) -> nn.Module:
    rule = arm.fitted.rule
    if isinstance(rule, WeightedSum):
        return _WeightedSum(rule)
    if isinstance(rule, LinearClassifier):
        return _LinearClassifier(rule)
    raise ValueError(
        f"fusion {arm.row['fusion']!r} of {arm.arm} can't be exported: its Fitted has no rule; "
        "export an arm with another fusion, or give it one in models/fusion.py"
    )


def _shapes(arm: TrainedArm) -> dict[str, tuple[int, ...]]:
    """Returns the shape of a video's clips by input: views, segments, channels and both sides."""
    return {
        name: (
            len(mirrored_views(network)),
            clip.segments,
            3 if name == "rgb" else 2 * clip.flow_length,
            clip.crop_size,
            clip.crop_size,
        )
        for name, (network, clip) in arm.inputs.items()
    }


def check_onnx() -> None:
    """Checks that what writes ONNX files is installed.

    Raises:
        ValueError: If it isn't.
    """
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        raise ValueError(
            f"--onnx needs {' and '.join(missing)}: pip install 'two-stream-study[onnx]'"
        )


def write_export(
    arm: TrainedArm, results: ResultStore, folder: Path, *, onnx: bool = False
) -> list[Path]:
    """Writes a trained arm to a folder of files.

    Args:
        arm: The arm.
        results: The results that it is of, for the model card.
        folder: The folder; made where it is missing, and empty otherwise.
        onnx: Whether to write ``program.onnx`` too.

    Returns:
        The files.

    Raises:
        ValueError: If the folder holds something, or the arm can't be exported.
        RuntimeError: If a program doesn't give what the networks give.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {folder} must be a new or an empty folder")
    module = PortableArm(arm).eval()
    program = _exported(module)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as name:
        made = Path(name)
        torch.export.save(program, made / "program.pt2")
        if onnx:
            _write_onnx(program, module, made / "program.onnx")
        state = {name: value.contiguous().clone() for name, value in module.state_dict().items()}
        safetensors.torch.save_file(state, made / "weights.safetensors")
        for file, text in _texts(arm, results).items():
            (made / file).write_text(text, encoding="utf-8")
        return sorted(path.rename(folder / path.name) for path in made.iterdir())


def _texts(arm: TrainedArm, results: ResultStore) -> dict[str, str]:
    """Returns the files that are text, by name."""
    return {
        "labels.json": _json(arm.network.classes),
        "fusion.json": _json(_fusion_parameters(arm)),
        "preprocessing.json": _json(_preprocessing(arm)),
        "example.py": EXAMPLE,
        "README.md": _model_card(arm, results),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _exported(module: PortableArm) -> torch.export.ExportedProgram:
    """Returns the module's program for any number of videos, checked against the module."""
    clips = module.example(2, seed=0)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        module(**clips)  # what is made once for a device is made before tensors are traced
        program = torch.export.export(
            module, (), clips, dynamic_shapes={name: {0: batch} for name in clips}
        )
        run = program.module()
        for videos in (1, 3):
            clips = module.example(videos, seed=videos)
            _check_same(module(**clips), run(**clips), "torch.export")
    return program


def _check_same(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], kind: str) -> None:
    for name, scores in expected.items():
        if not torch.allclose(scores, found[name], rtol=RTOL, atol=ATOL):
            most = float((scores - found[name]).abs().max())
            raise RuntimeError(
                f"the program of {kind} gives other {name} scores than the networks, by up to "
                f"{most:.2g}; nothing was written"
            )


def _write_onnx(program: torch.export.ExportedProgram, module: PortableArm, path: Path) -> None:
    """Writes an ONNX program, and checks what it gives against the module."""
    import onnxruntime

    written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None, "dynamo=True returns the program"
    written.save(path, external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    clips = module.example(3, seed=3)
    with torch.no_grad():
        expected = module(**clips)
    found = session.run(None, {name: value.numpy() for name, value in clips.items()})
    outputs = dict(zip(expected, map(torch.from_numpy, found), strict=True))
    _check_same(expected, outputs, "ONNX")


def _fusion_parameters(arm: TrainedArm) -> dict[str, Any]:
    """Returns how the streams' scores become one, as JSON has it."""
    about = {
        "fusion": arm.row["fusion"],
        "fusion_lambda": arm.row["fusion_lambda"],
        "streams": list(arm.networks),
    }
    rule = arm.fitted.rule
    if isinstance(rule, WeightedSum):
        weights = {stream: values.tolist() for stream, values in rule.weights.items()}
        return {**about, "kind": "weighted sum of scores", "weights": weights}
    tensors = {name: f"fusion.{name}" for name in ("mean", "weight", "bias", "rows")}
    return {
        **about,
        **arm.fitted.details,
        "kind": "linear classifier of features",
        "tensors": tensors,
    }


def _preprocessing(arm: TrainedArm) -> dict[str, Any]:
    """Returns how clips are made of a video, as JSON has it."""
    video = arm.network.store.to_dict()
    del video["dataset"]
    shapes = _shapes(arm)
    about: dict[str, Any] = {"video": video}
    for name, (network, clip) in arm.inputs.items():
        about[name] = {
            "shape": shapes[name],
            "axes": ["view", "segment", "channel", "row", "column"],
            "dtype": "uint8",
            "segments": clip.segments,
            "frame_stride": clip.stride,
            "clips": clip.clips,
            "crops": clip.crops,
            "scales": clip.scales,
            "mirrored_views": mirrored_views(network),
            "normalisation": _normalisation(name),
        }
    return about


def _normalisation(name: str) -> dict[str, Any]:
    """Returns what the program itself subtracts from a byte, and divides by."""
    if name == "flow":
        return {"mean": [127.5], "std": [255 * FLOW_STD], "done_by": "the program"}
    mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return {"mean": mean, "std": std, "done_by": "the program"}


def _model_card(arm: TrainedArm, results: ResultStore) -> str:
    """Returns a README of what the network is, made from its rows."""
    row = arm.row
    title = f"{row['arm']}, trained on {row['dataset']}"
    sections = {
        "Accuracy": _accuracy(arm, results),
        "Run it": _usage(arm),
        "Data": _data(arm),
        "Training": _training(arm, results),
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    inputs = " and ".join({"rgb": "RGB frames", "flow": "optical flow"}[one] for one in arm.inputs)
    return (
        f"# {markdown_text(title)}\n\nClassifies a video into {len(arm.network.classes)} classes "
        f"from its {inputs}. Fusion of the streams: `{row['fusion']}`.\n\n{body}\n"
    )


def _accuracy(arm: TrainedArm, results: ResultStore) -> str:
    """Returns the test accuracy of the network, and of all seeds and splits of its arm."""
    row = arm.row
    of = {name: row[name] for name in ("study", "dataset", "protocol")}
    judged = judgements(results, **of).get(arm.arm)
    lines = [
        [
            f"this network (split {row['split']}, seed {row['seed']})",
            points(row["top1"], signed=False),
            _interval(None if judged is None else _of_run(judged, row["split"], row["seed"])),
            points(row["top5"], signed=False),
            points(row["mean_class_accuracy"], signed=False),
            str(row["videos"]),
        ]
    ]
    if judged is not None:
        mean = aligned(judged).contrast([1]).value
        name = f"mean of {len(judged.seeds)} seeds of the same study"
        all_seeds = [points(mean, signed=False), _interval(judged), "", ""]
        lines.append([name, *all_seeds, str(len(judged.videos))])
    header = ["test", "top-1 %", "95 % interval", "top-5 %", "mean of classes %", "videos"]
    grid = Grid(header=header, rows=lines, right=[False, *[True] * 5]).markdown()
    return (
        f"{grid}\n\nScored in {row['views']}. The interval of one network is of other source "
        "videos, that of several seeds of other seeds too; a dash stands where there are too few."
    )


def _of_run(judged: Judgements, split: str, seed: int) -> Judgements | None:
    """Returns the judgements of one split and seed; None where they are not complete."""
    chosen = [number for number, (name, _) in enumerate(judged.videos) if name == split]
    if seed not in judged.seeds or not chosen:
        return None
    return replace(
        judged,
        videos=[judged.videos[number] for number in chosen],
        groups=[judged.groups[number] for number in chosen],
        labels=[judged.labels[number] for number in chosen],
        seeds=[seed],
        correct=judged.correct[[list(judged.seeds).index(seed)]][:, chosen],
    )


def _interval(judged: Judgements | None) -> str:
    return between(
        None if judged is None else aligned(judged).contrast([1]).interval(), signed=False
    )


def _usage(arm: TrainedArm) -> str:
    shapes = "\n".join(
        f"- `{name}`: (videos, {', '.join(map(str, shape))}) uint8"
        for name, shape in _shapes(arm).items()
    )
    return (
        "`python example.py` needs torch and safetensors alone. The program takes any number of "
        f"videos:\n\n{shapes}\n\n"
        "Normalisation, the mean over views, the softmax and the fusion are in the program, which "
        "computes in float32; it returns each stream's scores and `fused`. `preprocessing.json` "
        "says how frames and flow become these bytes; `python -m study.predict … --clips "
        "clips.safetensors` makes them. "
        "`weights.safetensors` has the tensors by name, `fusion.json` the fitted fusion, "
        "`labels.json` the class of each score."
    )


def _data(arm: TrainedArm) -> str:
    row, store = arm.row, arm.network.store
    return (
        f"{markdown_text(row['dataset'])}, split {markdown_text(row['split'])}: tested on "
        f"{row['videos']} videos of {row['classes']} classes, {row['missing_videos']} videos of "
        f"the split missing. Frames have a short side of {store.short_side} pixels, flow is "
        f"{store.flow_backend}'s, clipped at ±{store.bound:g} pixels."
    )


def _training(arm: TrainedArm, results: ResultStore) -> str:
    """Returns the settings and the provenance of each network."""
    names = (
        *("training_id", "model", "options", "hyperparameters", "epochs", "train_videos"),
        *("validation_videos", "parameters", "device", "precision", "git_commit", "dirty"),
        *("versions", "started_at"),
    )
    said = [f"Study `{arm.study}`, protocol `{arm.row['protocol']}`, tuning `{arm.row['tuning']}`."]
    for network, streams in arm.distinct:
        (line,) = results.read("trainings", keys=[network.training_id]).to_pylist()
        rows = [[name, str(line[name])] for name in names]
        grid = Grid(header=[" and ".join(streams), ""], rows=rows, right=[False] * 2)
        said.append(grid.markdown())
    return "\n\n".join(said)
