"""What the results hold: the columns of every view, with their units and what they may hold.

One name has one unit everywhere: seconds, bytes, and fractions 0..1 for accuracies. Columns that
say JSON hold canonical JSON (sorted keys, no blanks), so that equal settings are equal strings.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from study.provenance import canonical_json

__all__ = [
    "STORED_VIEWS",
    "VIEWS",
    "Block",
    "Column",
    "blocks_to_table",
    "finite_or_null",
    "schema",
    "to_table",
]

Block = Mapping[str, Any]
"""Lines by column: a value for each line, or one value that all of the block's lines have.

A sequence or array (V,) is the former, and (V, N) where each line holds a list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a view.

    Attributes:
        name: Its name in SQL.
        type: Its Arrow type.
        about: What it holds, with its unit.
        required: Whether every line must have a value.
        json: Whether it holds JSON; a mapping or list is written as canonical JSON.
        one_of: The values that it may hold; empty when any.
        fraction: Whether it must lie within 0..1.
        derived: Computes it from the line's other columns when it is written; nothing is given.
    """

    name: str
    type: pa.DataType
    about: str
    required: bool = True
    json: bool = False
    one_of: tuple[str, ...] = ()
    fraction: bool = False
    derived: Callable[[Mapping[str, pa.Array]], pa.Array] | None = None


def _text(name: str, about: str, **more: Any) -> Column:
    return Column(name=name, type=pa.string(), about=about, **more)


def _json(name: str, about: str, **more: Any) -> Column:
    return Column(name=name, type=pa.string(), about=f"{about} (JSON)", json=True, **more)


def _integer(name: str, about: str, **more: Any) -> Column:
    return Column(name=name, type=pa.int64(), about=about, **more)


def _real(name: str, about: str, **more: Any) -> Column:
    return Column(name=name, type=pa.float64(), about=about, **more)


def _fraction(name: str, about: str, **more: Any) -> Column:
    return Column(name=name, type=pa.float64(), about=f"{about}, 0..1", fraction=True, **more)


def _rank(columns: Mapping[str, pa.Array]) -> pa.Array:
    """Returns the place of each line's class among its scores, from 1.

    Of classes with equal scores the one of lower index counts as higher.
    """
    lists = columns["scores"]
    labels = columns["label"].to_numpy()
    counts = pc.list_value_length(lists).to_numpy()
    if (bad := np.flatnonzero((labels < 0) | (labels >= counts))).size:
        raise ValueError(
            f"line {bad[0]} has label {labels[bad[0]]}, but scores of {counts[bad[0]]} classes"
        )
    ranks = np.empty(len(labels), np.int64)
    for classes in np.unique(counts):
        lines = np.flatnonzero(counts == classes)
        scores = lists.take(pa.array(lines)).flatten().to_numpy().reshape(-1, classes)
        own = np.take_along_axis(scores, labels[lines, None], axis=1)
        before = np.arange(classes) < labels[lines, None]
        ranks[lines] = 1 + ((scores > own) | ((scores == own) & before)).sum(axis=1)
    return pa.array(ranks)


_SCORES = (
    Column(name="scores", type=pa.list_(pa.float32()), about="softmax score of each class"),
    Column(
        name="rank",
        type=pa.int64(),
        about="the place of the video's class among its scores: 1 is right, 5 within the best five",
        derived=_rank,
    ),
)

PARTS = ("train", "validation", "test")

VIEWS: Mapping[str, tuple[Column, ...]] = MappingProxyType(
    {
        "trainings": (
            _text("training_id", "fingerprint of everything that can change the result"),
            _text("study", "the study that ran it"),
            _text("space", "the system's search space"),
            _text("model", "the model's registered name"),
            _json("options", "the model's options"),
            _json("hyperparameters", "the hyperparameters"),
            _text("dataset", "the dataset"),
            _text("store_fingerprint", "fingerprint of the clip store"),
            _text("split", "the split's name"),
            _integer("seed", "the random seed"),
            _text("status", "finished or failed", one_of=("finished", "failed")),
            _text("error", "why it failed", required=False),
            _integer("epochs", "epochs trained", required=False),
            _integer("train_videos", "videos trained on", required=False),
            _integer("validation_videos", "videos held out of train", required=False),
            _integer("missing_videos", "videos of the split that the store lacks", required=False),
            _integer("parameters", "parameters of the model", required=False),
            _real("gflops", "GFLOPs of one forward pass of one clip", required=False),
            _real("seconds", "wall time in seconds", required=False),
            _text("device", "what it ran on", required=False),
            _integer("workers", "processes that trained it together", required=False),
            _integer("peak_memory_bytes", "peak memory in bytes", required=False),
            _text("git_commit", "commit of the code", required=False),
            Column(
                name="dirty",
                type=pa.bool_(),
                about="whether the code had uncommitted changes",
                required=False,
            ),
            _json("versions", "versions of the packages", required=False),
            Column(name="started_at", type=pa.timestamp("us"), about="start, UTC"),
            _json("serves", "trainings of fewer streams whose scores it has", required=False),
            _json("starts_from", "trainings that it starts from, by stream or *", required=False),
            _text("traceback", "where in the code it failed", required=False),
            _text(
                "precision",
                "what its products were computed in",
                required=False,
                one_of=("float32", "tf32", "bfloat16"),
            ),
            _text("notes", "what to know of how it ran", required=False),
            _text("protocol", "protocol of the study that ran it"),
            _text("device_kind", "the GPU's name, or cpu", required=False),
            Column(
                name="compiled",
                type=pa.bool_(),
                about="whether torch.compile was used",
                required=False,
            ),
            _text("torch", "version of torch", required=False),
        ),
        "epochs": (
            _text("training_id", "the training"),
            _integer("epoch", "the epoch, from 1"),
            _real("lr", "learning rate in the epoch's last step"),
            _real("train_loss", "mean loss over the epoch"),
            _json("losses", "mean of each loss by name"),
            _fraction("validation_top1", "validation top-1", required=False),
            _real("seconds", "wall time in seconds"),
            _real("clips_per_second", "clips trained a second", required=False),
            Column(
                name="halved",
                type=pa.bool_(),
                about="whether forward passes had half the videos planned, for want of GPU memory",
                required=False,
            ),
        ),
        "trials": (
            _text("study", "the study that searched"),
            _text("arm", "the arm that stands for the searched net"),
            _text("dataset", "the dataset"),
            _text("split", "the split's name"),
            _integer("trial", "the trial's number"),
            _text("training_id", "its training", required=False),
            _json("parameters", "the proposed values"),
            _fraction("validation_top1", "validation top-1 at the end", required=False),
            _text("state", "how it ended", one_of=("complete", "pruned", "failed")),
            _integer("epochs", "epochs trained"),
            _real("seconds", "wall time in seconds"),
            _text("protocol", "the protocol, of view protocols"),
            _integer("search_seed", "the search's seed"),
            _text("search", "the search's name, which ends with a digest of what was asked"),
        ),
        "rows": (
            _text("study", "the study"),
            _text("space", "the system's search space"),
            _text("arm", "the arm's name"),
            _text("dataset", "the dataset"),
            _text("split", "the split's name"),
            _integer("seed", "the random seed"),
            _text("part", "validation or test", one_of=PARTS[1:]),
            _text(
                "training_id",
                "the training that it came from; of several, such as spatial's and temporal's or "
                "an ensemble's members', joined by +",
            ),
            _text("fusion", "how the streams' scores became one, or ensemble for a mean of arms"),
            _real("fusion_lambda", "λ of adaptively weighted fusion", required=False),
            _text("views", "clips × crops that were averaged"),
            _fraction("top1", "top-1 accuracy"),
            _fraction("top5", "top-5 accuracy"),
            _fraction("mean_class_accuracy", "mean of the classes' accuracies"),
            _integer("videos", "videos judged"),
            _text(
                "tuning",
                "whether a net's arms, each arm or all shared a search's choice, or none was made",
                one_of=("net", "own", "shared", "fixed"),
            ),
            _text("tuned_by", "the arm of ``trials`` that stands for its search", required=False),
            _text("modality", "the inputs, such as RGB + flow", required=False),
            _integer("classes", "classes that the judged videos are of", required=False),
            _integer("missing_videos", "videos of the split that the store lacks", required=False),
            _json(
                "details",
                "what the fusion fitted, on which training's scores if not on those of the "
                "tested one, the test views of each stream, which trials gave the settings, and an "
                "ensemble's members",
                required=False,
            ),
            _text(
                "scoring_id",
                "the scores that it came from; of several, joined by +",
            ),
            _text("protocol", "the protocol, of view protocols"),
        ),
        "scores": (
            _text("training_id", "the training"),
            _text("part", "the part of the split", one_of=PARTS),
            _text("video", "the video's name"),
            _integer("label", "the video's class"),
            _text("stream", "the stream"),
            _SCORES[0],
            _text("scoring_id", "fingerprint of the training and the views of its videos"),
            _SCORES[1],
        ),
        "validation_scores": (
            _text("training_id", "the training"),
            _integer("epoch", "epochs trained: a rung of the search, or the last"),
            _text("video", "the validation video's name"),
            _integer("label", "the video's class"),
            _text("stream", "the stream"),
            *_SCORES,
        ),
        "published": (
            _text("system", "the system whose paper prints the table"),
            _text("table_name", "the table"),
            _text("arm", "the row of the table: the arm's name, or the comparator's"),
            _text("dataset", "the dataset"),
            _text("split", "the split, or what was averaged"),
            _text("metric", "what was measured: top1, top5 or compute_saving"),
            _fraction("value", "the printed number"),
            _text("source", "where it was printed"),
            _text("note", "what to know of it", required=False),
        ),
        "features": (
            _text("training_id", "the training"),
            _text("part", "the part of the split", one_of=PARTS),
            _text("video", "the video's name"),
            _integer("label", "the video's class"),
            _text("stream", "the stream"),
            Column(
                name="features",
                type=pa.list_(pa.float32()),
                about="the vector that the stream's classifier sees",
            ),
            _text("scoring_id", "fingerprint of the training and the views of its videos"),
        ),
        "predictions": (
            _text("study", "the study"),
            _text("arm", "the arm's name"),
            _text("dataset", "the dataset"),
            _text("split", "the split's name"),
            _integer("seed", "the random seed"),
            _text("part", "validation or test", one_of=PARTS[1:]),
            _text(
                "training_id",
                "the training that it came from, or spatial's and temporal's, joined by +",
            ),
            _text("video", "the video's name, <class>/<stem>"),
            _integer("label", "the video's class"),
            _integer("predicted", "the class that the arm's fused scores say"),
            _text("source_group", "the source video that the clip was cut from", required=False),
            _text("protocol", "the protocol, of view protocols"),
        ),
        "protocols": (
            _text("protocol", "hash of all that rows must have in common to be compared"),
            _text("study", "the study"),
            _text("dataset", "the dataset"),
            _text("store_fingerprint", "fingerprint of the clip store"),
            _json("settings", "what the hash is of"),
            Column(name="started_at", type=pa.timestamp("us"), about="last start, UTC"),
            _text("git_commit", "commit of the code"),
            Column(name="dirty", type=pa.bool_(), about="whether the code had uncommitted changes"),
        ),
    }
)

STORED_VIEWS = tuple(name for name in VIEWS if name != "published")
"""The views that a study writes; ``published`` comes with the code."""


def schema(view: str, *, encoded: bool = False) -> pa.Schema:
    """Returns the Arrow schema of a view.

    Args:
        view: A view's name.
        encoded: Whether texts are numbers into a dictionary, as Parquet stores them: many lines are
            read, grouped and joined several times faster so.

    Raises:
        ValueError: If there is no such view.
    """
    text = pa.dictionary(pa.int32(), pa.string()) if encoded else pa.string()
    return pa.schema(
        [
            (column.name, text if column.type == pa.string() else column.type)
            for column in _columns(view)
        ]
    )


def to_table(view: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Checks rows against a view's columns and returns them as a table.

    Args:
        view: A view's name.
        rows: One mapping a line. Columns that aren't required may be left out.

    Raises:
        ValueError: If a row has an unknown column, lacks one, or holds what the column can't;
            the message names view, row, column and value.
    """
    for number, row in enumerate(rows):
        _check_names(view, f"row {number}", row)
    given = {
        column.name: pa.array(
            [_checked(view, number, column, row) for number, row in enumerate(rows)], column.type
        )
        for column in _columns(view)
        if column.derived is None
    }
    return _with_derived(view, given)


def blocks_to_table(view: str, blocks: Sequence[Block]) -> pa.Table:
    """Checks lines that are given by column, as `to_table` does those given one by one.

    Args:
        view: A view's name.
        blocks: Lines that belong together. Columns that aren't required may be left out.

    Raises:
        ValueError: As `to_table`, or if a block's columns differ in length.
    """
    tables = [_block_table(view, number, block) for number, block in enumerate(blocks)]
    return pa.concat_tables([schema(view).empty_table(), *tables])


def _block_table(view: str, number: int, block: Block) -> pa.Table:
    _check_names(view, f"block {number}", block)
    lengths = {name: len(value) for name, value in block.items() if _is_of_lines(value)}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"view {view!r}, block {number}: columns of one length are needed, but got {lengths}"
        )
    length = next(iter(lengths.values()))
    given = {}
    for column in _columns(view):
        if column.name in lengths:
            given[column.name] = _checked_column(view, number, column, block[column.name])
        elif column.derived is None:
            value = _checked(view, number, column, block)
            given[column.name] = pa.repeat(pa.scalar(value, column.type), length)
    return _with_derived(view, given)


def _is_of_lines(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def _with_derived(view: str, given: Mapping[str, pa.Array]) -> pa.Table:
    arrays = [
        given[column.name] if column.derived is None else column.derived(given)
        for column in _columns(view)
    ]
    return pa.table(arrays, schema=schema(view))


def _check_names(view: str, where: str, names: Mapping[str, Any]) -> None:
    known = [column.name for column in _columns(view) if column.derived is None]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(
            f"view {view!r}, {where}: unknown column {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(known)}"
        )


def _columns(view: str) -> tuple[Column, ...]:
    if view not in VIEWS:
        raise ValueError(f"there is no view {view!r}; there are {', '.join(VIEWS)}")
    return VIEWS[view]


def _checked(view: str, number: int, column: Column, row: Mapping[str, Any]) -> Any:
    """Returns the value of a row's column, in the form that Arrow takes."""
    value: Any = row.get(column.name)
    where = f"view {view!r}, row {number}, column {column.name!r}"
    if value is None:
        if column.required:
            raise ValueError(f"{where}: a value is needed ({column.about})")
        return None
    if column.json:
        return _checked_json(where, value)
    if pa.types.is_timestamp(column.type):
        return _checked_time(where, value)
    if pa.types.is_list(column.type):
        return _checked_list(where, value)
    kinds, name = _KINDS[column.type]
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not fits:
        raise ValueError(f"{where}: {name} is needed, but got {value!r} ({type(value).__name__})")
    if column.one_of and value not in column.one_of:
        raise ValueError(f"{where}: got {value!r}; allowed are {', '.join(column.one_of)}")
    if column.fraction and not 0 <= value <= 1:
        raise ValueError(f"{where}: a fraction within 0..1 is needed, but got {value!r}")
    return value


def _checked_column(
    view: str, number: int, column: Column, values: Sequence[Any] | np.ndarray
) -> pa.Array:
    """Returns a block's column in Arrow's form."""
    where = f"view {view!r}, block {number}, column {column.name!r}"
    if column.json or column.fraction or pa.types.is_timestamp(column.type):
        each = [_checked(view, number, column, {column.name: value}) for value in values]
        return pa.array(each, column.type)
    if pa.types.is_list(column.type):
        matrix = np.asarray(values, np.float32)
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise ValueError(f"{where}: finite numbers (lines, N) are needed, but got {values!r}")
        offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
        return pa.ListArray.from_arrays(offsets, matrix.ravel())
    try:
        array = pa.array(values, column.type)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"{where}: {column.type} is needed: {error}") from None
    if column.required and array.null_count:
        raise ValueError(f"{where}: a value is needed in each line ({column.about})")
    if column.one_of and (other := set(array.unique().to_pylist()) - {*column.one_of, None}):
        raise ValueError(f"{where}: got {other}; allowed are {', '.join(column.one_of)}")
    return array


def _checked_json(where: str, value: Any) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: {value!r} is not JSON: {error}") from None
    try:
        return canonical_json(finite_or_null(value))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def finite_or_null(value: Any) -> Any:
    """Replaces NaN and infinity, which a diverged loss may be and JSON can't hold, by null."""
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _checked_time(where: str, value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{where}: a datetime with a time zone is needed, but got {value!r}")
    return value.astimezone(UTC).replace(tzinfo=None)


def _checked_list(where: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        array = np.empty((0, 0), dtype=np.float32)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{where}: a flat list of finite numbers is needed, but got {value!r}")
    return array


_KINDS: Mapping[pa.DataType, tuple[tuple[type, ...], str]] = MappingProxyType(
    {
        pa.string(): ((str,), "a string"),
        pa.int64(): ((int, np.integer), "a whole number"),
        pa.float64(): ((float, int, np.floating, np.integer), "a number"),
        pa.bool_(): ((bool,), "true or false"),
    }
)
