"""``python -m study.gallery``: test videos that arms get right and wrong, as one HTML page."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

import search_spaces
from study.command import DONE, Parser, check_output, ended
from study.data.datasets.annotations import Video
from study.data.store.clip_store import ClipStore
from study.data.store.preview import find_stored
from study.files import whole_file
from study.pictures import Looks, draw_video
from study.prediction import NetworkNotKeptError, TrainedArm, find_arm
from study.results.faults import meant
from study.results.findings import Findings, find, selected
from study.results.gallery import (
    JudgedVideo,
    Strip,
    judged_videos,
    most_telling,
    render_gallery,
)
from study.results.grids import natural_order
from study.results.protocols import Protocol
from study.results.store import ResultStore, open_results

__all__ = ["main"]

MOST_ARMS, MOST_VIDEOS = 8, 400  # a page of some 100 MB
EXAMPLES = """\
examples:
  python -m study.gallery --study stilt-embedded --data results/data/embedded
      24 videos of the best arm and the one that it is compared with
  python -m study.gallery --study stilt-ucf101 --data stores/ucf101 --arms stil two-stream \\
      --count 60 --output stil.html
  python -m study.gallery --study stilt-ucf101 --data stores/ucf101 --videos v_Archery_g01_c01
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused input."""
    given = _parser().parse_args(arguments)
    return ended("study.gallery", partial(_gallery, given))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m study.gallery",
        description="Test videos that arms of a study get right and wrong, as one HTML page: what "
        "each arm says, frames, colour-coded flow, and where its networks look: Grad-CAM, and "
        "attention where a network has it. Nothing is trained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("--study", required=True, metavar="NAME", help="the study")
    add("--data", required=True, metavar="DIR", help="the clip store that it trained on")
    add("--results", default="results", metavar="DIR", help="folder or URI (default: results)")
    add(
        "--arms",
        nargs="+",
        metavar="ARM",
        help=f"up to {MOST_ARMS} arms (default: the best, and the one that it is compared with)",
    )
    add("--split", metavar="NAME", help="the split (default: the first)")
    add("--protocol", metavar="HASH", help="the protocol, or its first digits (default: the last)")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--count",
        type=int,
        default=24,
        metavar="N",
        help="how many videos, those on which the arms disagree most first (default: 24)",
    )
    ways.add_argument("--videos", nargs="+", metavar="NAME", help="these test videos")
    add(
        "--space",
        metavar="FILE.py|MODULE:NAME",
        help="a space of your own, whose labels the page then has",
    )
    add(
        "--no-maps",
        action="store_true",
        help="frames and flow alone; maps take seconds a video without a GPU",
    )
    add(
        "--device",
        help="cpu or cuda (default: a GPU where there is one)",
        default="cuda" if torch.cuda.is_available() else "cpu",
    )
    add("--output", type=Path, default=Path("gallery.html"), help="default: gallery.html")
    return parser


def _gallery(given: argparse.Namespace) -> int:
    _check(given)
    if given.space:
        search_spaces.load(given.space)
    results, store = open_results(given.results), ClipStore.open(given.data)
    shown = _shown(results, store, given)
    found = find(results, shown)
    arms = _arms(found, given.arms)
    split, judged = _judged(results, shown, arms, given.split)
    videos = _videos(judged, store, given, split)
    labels = {arm: found.labels[arm] for arm in arms}
    trained, notes = ({}, []) if given.no_maps else _trained(results, shown, labels, split)
    looks = Looks(store, trained, device=given.device)
    page = render_gallery(
        _drawn(videos, store, looks, trained),
        study=shown.study,
        dataset=shown.dataset,
        split=split,
        labels=labels,
        classes=store.annotations.classes,
        notes=notes,
    )
    with whole_file(given.output) as file:
        for piece in page:
            file.write(piece.encode())
    print(*notes, sep="\n", file=sys.stderr)
    print(f"wrote {len(videos)} videos to {given.output}")
    return DONE


def _check(given: argparse.Namespace) -> None:
    """Checks what needs no results, before anything is read."""
    if not 1 <= given.count <= MOST_VIDEOS:
        raise ValueError(f"--count must be in 1..{MOST_VIDEOS}, got {given.count}")
    for flag, names, most in (
        ("--arms", given.arms or [], MOST_ARMS),
        ("--videos", given.videos or [], MOST_VIDEOS),
    ):
        if len(set(names)) < len(names) or len(names) > most:
            raise ValueError(f"{flag} takes up to {most} names, each once, got {len(names)}")
    check_output(given.output)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here; give --device cpu")


def _shown(results: ResultStore, store: ClipStore, given: argparse.Namespace) -> Protocol:
    """Returns the study's protocol on the store's dataset, which must be of this very store."""
    dataset = store.annotations.dataset
    every = [one.shown for one in selected(results, given.study, protocol=given.protocol)]
    known = {one.dataset: one for one in every}
    if dataset not in known:
        raise ValueError(
            f"--data {given.data} is of {dataset}, but study {given.study!r} has rows of "
            f"{', '.join(known)}"
        )
    shown = known[dataset]
    (line,) = results.read(
        "protocols", study=shown.study, dataset=dataset, protocol=shown.protocol
    ).to_pylist()
    if line["store_fingerprint"] != store.fingerprint:
        raise ValueError(
            f"--data {given.data} is not the store that study {given.study!r} trained on: its "
            f"fingerprint is {store.fingerprint}, and that one's {line['store_fingerprint']}"
        )
    return shown


def _arms(found: Findings, wanted: Sequence[str] | None) -> list[str]:
    for arm in wanted or ():
        if arm not in found.labels:
            raise ValueError(
                f"study {found.study!r} has no arm {arm!r}{meant(arm, found.labels)}; "
                f"it has {', '.join(found.labels)}"
            )
    if wanted:
        return list(wanted)
    return [found.best_arm] if found.best is None else [found.best.arm, found.reference]


def _judged(
    results: ResultStore, shown: Protocol, arms: Sequence[str], split: str | None
) -> tuple[str, list[JudgedVideo]]:
    """Returns the split, and what the arms say of its test videos."""
    of: dict[str, Any] = {
        "study": shown.study,
        "dataset": shown.dataset,
        "protocol": shown.protocol,
    }
    lines = results.read("rows", columns=["split"], part="test", **of)
    splits = sorted(set(lines["split"].to_pylist()), key=natural_order)
    if split not in (None, *splits):
        raise ValueError(
            f"study {shown.study!r} has no split {split!r}; it has {', '.join(splits)}"
        )
    split = split or splits[0]
    judged = judged_videos(results, arms, split=split, **of)
    if not judged:
        raise ValueError(
            f"these results hold no predictions of {', '.join(arms)} of the same test videos of "
            f"split {split}"
        )
    return split, judged


def _videos(
    judged: Sequence[JudgedVideo], store: ClipStore, given: argparse.Namespace, split: str
) -> list[JudgedVideo]:
    if given.videos is None:
        return most_telling(judged, given.count)
    known = {one.video: one for one in judged}
    names = [find_stored(store, name) for name in given.videos]
    if strange := [name for name in names if name not in known]:
        raise ValueError(f"{strange[0]} is no test video of split {split}")
    return sorted((known[name] for name in names), key=lambda one: -one.disagreement)


def _trained(
    results: ResultStore, shown: Protocol, labels: Mapping[str, str], split: str
) -> tuple[dict[str, TrainedArm], list[str]]:
    """Returns the arms whose networks are kept, by label, and what is to be said of them."""
    trained, notes = {}, []
    for arm, label in labels.items():
        try:
            found = find_arm(
                results, study=shown.study, arm=arm, split=split, protocol=shown.protocol
            )
        except NetworkNotKeptError as error:
            notes.append(f"There are no maps of {label}: {error}.")
            continue
        trained[label] = found
    if trained:
        seeds = (f"{label} (seed {one.row['seed']})" for label, one in trained.items())
        notes.append(
            f"Maps are of the seed that is best on validation of those whose networks are kept: "
            f"{', '.join(seeds)}. Grad-CAM shows what speaks for the class that the arm says."
        )
    return trained, notes


def _drawn(
    videos: Sequence[JudgedVideo],
    store: ClipStore,
    looks: Looks,
    trained: Mapping[str, TrainedArm],
) -> Iterator[tuple[JudgedVideo, list[Strip]]]:
    """Yields each video with its pictures, drawn when it is asked for."""
    console = Console(stderr=True)
    for one in track(videos, "drawn", console=console, disable=not console.is_terminal):
        video = Video(name=one.video, path="", label=one.label, group="")
        classes = {label: one.said[arm.arm] for label, arm in trained.items()}
        yield one, [*draw_video(store, one.video), *looks.draw(video, classes)]


if __name__ == "__main__":
    sys.exit(main())
