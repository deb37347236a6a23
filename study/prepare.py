"""``python -m study.prepare``: turns a dataset's videos into a clip store."""

import argparse
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from study.command import Parser
from study.data.datasets.catalog import (
    annotate,
    dataset_name,
    find_reader,
    list_datasets,
    load_dataset,
    videos_folder,
)
from study.data.datasets.list_files import ListFiles
from study.data.flow.compute import BACKENDS, FlowSettings
from study.data.flow.planes import CODECS
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import (
    GPU_WORKERS,
    PreparationSummary,
    Progress,
    default_settings,
    prepare,
)
from study.data.store.remote import is_uri
from study.data.store.settings import StoreSettings, read_settings
from study.data.store.upload import check_target, upload
from study.sizes import told_bytes

__all__ = ["main"]

_LINE_SECONDS = 10.0
_RATE_SECONDS = 60.0  # over which the rate is taken
_STARTING_SECONDS = 5.0  # after the first video


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        given = _parser().parse_args(words)
        if given.verify:
            return _verify(given.store, console)
        if given.preview:
            return _preview(given.store, given.preview, console)
        if is_uri(given.store):
            raise ValueError(
                f"a store is prepared in a local folder and then copied: give --store DIR --upload "
                f"{given.store}"
            )
        given.store = Path(given.store)
        if given.dataset is None:
            if given.upload:
                return _upload(given.store, given.upload, console)
            raise ValueError(f"name a dataset: {', '.join(list_datasets())}")
        given.dataset = load_dataset(given.dataset)
        _check_cluster(given)
        settings = _settings(given)
        if given.upload:
            check_target(given.upload, settings)
        _prepare(given, settings, console)
        return _upload(given.store, given.upload, console) if given.upload else 0
    except (ValueError, FileNotFoundError) as error:
        errors.print(f"[bold red]refused:[/] {escape(str(error))}")
        return 2
    except (OSError, RuntimeError) as error:
        errors.print(f"[bold red]failed:[/] {escape(_said(error))}")
        errors.print("What was finished is safe; the same command goes on from there.")
        return 1
    except KeyboardInterrupt:
        errors.print("\nStopped. What was finished is safe; to go on from there:")
        errors.print(f"  {escape(shlex.join(['python', '-m', 'study.prepare', *words]))}")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m study.prepare",
        description="Decodes a dataset's videos and computes their optical flow, once, into a clip "
        "store. Killed at any moment, the same command goes on where it stopped; run again later, "
        "it adds the videos that came since. Settings that aren't given are those of the store, "
        "where there is one.",
    )
    add = parser.add_argument
    add(
        "dataset",
        nargs="?",
        help=f"one of: {', '.join(list_datasets())}; or a reader of your own, as FILE.py or "
        "MODULE:NAME",
    )
    add("--store", metavar="DIR", required=True, help="the clip store to make")
    add(
        "--upload",
        metavar="URI",
        help="then copy the store there, such as to s3://bucket/store; without a dataset just copy",
    )
    add("--videos", type=Path, metavar="DIR", help="folder of the videos")
    add(
        "--splits",
        nargs="+",
        metavar="PATH",
        help="folder of the official split files; for `folder`: files that list the videos, a CSV "
        "with header video,label[,part,split,group] or lists of mmaction2 or SlowFast, each named "
        "after its part (train.txt, val.txt, test.txt) or given as train=FILE",
    )
    add("--classes", type=Path, metavar="FILE", help="class names of numbered labels, one a line")
    add(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="refuse lists with absent videos or classes, repeated lines or groups in two parts, "
        "which are otherwise reported and passed over",
    )
    add(
        "--name",
        help="for `folder`: what the dataset is called in commands and results (the folder's name)",
    )
    add(
        "--group",
        metavar="REGEX",
        help="for `folder`: what the pattern's first group finds in a video's name is the group "
        "that leave-one-group-out leaves out",
    )
    add("--short-side", type=int, metavar="PX", help="of the pictures (256)")
    add("--frame-step", type=int, metavar="N", help="take every N-th frame (1)")
    add("--stacks", type=int, metavar="K", help="only K stacks of each video, evenly spaced")
    add("--flow-length", type=int, metavar="L", help="flow fields in each of the K stacks (10)")
    add(
        "--flow-codec",
        choices=CODECS,
        help="how flow is stored: lz4 loses nothing and is read fastest, jpeg is smaller (lz4)",
    )
    add("--quality", type=int, metavar="Q", help="of the JPEGs, 1 to 100 (95)")
    add("--flow-backend", metavar="NAME", help=f"one of: {', '.join(sorted(BACKENDS))}")
    add(
        "--flow-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"of the flow; may be repeated: {', '.join(sorted(FlowSettings.options()))}",
    )
    add(
        "--flow",
        type=Path,
        metavar="DIR",
        help="take flow computed before from DIR/VIDEO: flow_x_00001.jpg, … or folders x and y",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes (one for each core; with tvl1-gpu, at most {GPU_WORKERS} for the GPU)",
    )
    add("--address", help="share the work with the nodes of the Ray cluster at this address")
    add("--nodes", type=int, metavar="N", help="nodes of the cluster (those it has now)")
    add("--deadline", type=float, default=60.0, metavar="S", help="give a stuck decoder up (60 s)")
    add("--retry-skipped", action="store_true", help="try videos again that were skipped before")
    add("--preview", metavar="VIDEO", help="draw a stored video's frames and flow, and stop")
    add("--verify", action="store_true", help="check every record of the store, and stop")
    return parser


def _settings(given: argparse.Namespace) -> StoreSettings:
    settings = default_settings(given.dataset)
    if (given.store / "settings.json").exists():
        settings = read_settings(given.store)
    return settings.changed(
        dataset=dataset_name(given.dataset, given.videos, given.name),
        flow_backend=given.flow_backend,
        flow_options=given.flow_option,
        precomputed=given.flow is not None,
        short_side=given.short_side,
        frame_step=given.frame_step,
        stacks=given.stacks,
        flow_length=given.flow_length,
        flow_codec=given.flow_codec,
        jpeg_quality=given.quality,
    )


def _check_cluster(given: argparse.Namespace) -> None:
    if given.address is None:
        if given.nodes is not None:
            raise ValueError("--nodes is for a cluster: give its --address")
        return
    if given.nodes is not None and given.nodes < 1:
        raise ValueError(f"--nodes must be at least 1, got {given.nodes}")
    if given.retry_skipped:
        raise ValueError("--retry-skipped is for one machine: leave --address out")
    if given.videos is None:
        raise ValueError("--address needs --videos DIR, on storage that all nodes share")


def _prepare(given: argparse.Namespace, settings: StoreSettings, console: Console) -> None:
    annotations = annotate(
        given.dataset,
        videos=given.videos,
        **_lists(given),
        group=given.group,
        name=settings.dataset if settings.dataset != given.dataset else None,
        report=lambda text: console.print(f"[bold yellow]IN THE LISTS:[/] {escape(text)}"),
    )
    if "group" in find_reader(given.dataset).takes and not annotations.has_groups:
        console.print(
            "[bold yellow]NO GROUPS:[/] without --group every video counts as a source of its own, "
            "so clips cut from one source may stand on both sides of the split, and of train and "
            "validation: accuracies are then too high. Where names tell the source, give --group; "
            'a list may have a column "group".'
        )
    if given.videos is None and find_reader(given.dataset).render is not None:
        console.print(f"Rendering the {given.dataset} dataset's videos")
    with videos_folder(given.dataset, given.videos) as videos, _Display(console) as display:
        options: dict[str, Any] = {
            "flow_folder": given.flow,
            "workers": given.workers,
            "progress": display.show,
            "deadline": given.deadline,
        }
        if given.address is None:
            options["retry_skipped"] = given.retry_skipped
            summary = prepare(annotations, videos, given.store, settings, **options)
        else:
            from study.cluster.preparation import prepare_on_cluster  # Ray takes a second

            options["nodes"] = given.nodes
            summary = prepare_on_cluster(
                given.address, annotations, videos, given.store, settings, **options
            )
    _report(summary, given.store, console)
    if summary.stored == 0:
        raise RuntimeError("no video could be used; the reasons are above")


def _lists(given: argparse.Namespace) -> dict[str, Any]:
    """Returns what --splits gives: lists of a dataset of one's own, or the folder of official ones.

    Raises:
        ValueError: If the dataset doesn't take what is given.
    """
    splits = given.splits or []
    if splits and "lists" in find_reader(given.dataset).takes:
        return {"lists": ListFiles.parse(splits, classes=given.classes, strict=given.strict)}
    if given.classes or given.strict:
        raise ValueError("--classes and --strict go with `folder` and its lists, --splits FILE …")
    if len(splits) > 1:
        raise ValueError(
            f'dataset "{given.dataset}" takes one folder of lists, but got {", ".join(splits)}'
        )
    return {"splits": Path(splits[0]) if splits else None}


def _report(summary: PreparationSummary, store: Path, console: Console) -> None:
    if summary.prepared == 0:
        console.print("The store is complete: there was nothing to do.")
    console.print(
        f"[bold]{summary.stored} videos[/] in {escape(str(store))}, {told_bytes(summary.bytes)}, "
        f"fingerprint {summary.fingerprint}; {summary.prepared} prepared in "
        f"{_duration(summary.seconds)}"
    )
    for split, parts in summary.listed.items():
        missing = summary.missing[split]
        if any(missing.values()):
            counts = ", ".join(
                f"{missing[part]} of {listed} {part} videos" for part, listed in parts.items()
            )
            console.print(f"[bold red]MISSING from split {escape(split)}: {counts}[/]")
    if summary.skipped:
        console.print(
            f"[bold yellow]SKIPPED {len(summary.skipped)} videos[/] "
            f"(all are in {escape(str(store / 'manifest.json'))}):"
        )
        for name, reason in list(summary.skipped.items())[:20]:
            console.print(f"  {escape(name)}: {escape(reason)}")
        if len(summary.skipped) > 20:
            console.print(f"  and {len(summary.skipped) - 20} more")


def _upload(store: Path, uri: str, console: Console) -> int:
    printed = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal printed
        if time.monotonic() - printed > _LINE_SECONDS:
            printed = time.monotonic()
            console.print(f"uploaded {told_bytes(done)} of {told_bytes(total)}")

    summary = upload(store, uri, progress=show)
    copied = "there was nothing to copy"
    if summary.copied:
        copied = f"{summary.copied} files copied, {told_bytes(summary.bytes)}"
    console.print(f"[bold]The store is at {escape(uri)}[/]: {copied}")
    console.print(f"To use it: python -m study.run … --data {escape(uri)}")
    return 0


def _verify(store: str, console: Console) -> int:
    opened = ClipStore.open(store)
    errors = 0
    for line in opened.verify():
        console.print(f"[bold red]wrong:[/] {escape(line)}")
        errors += 1
    console.print(f"{len(opened)} videos checked in {escape(store)}: {errors} errors")
    if errors and opened.cache is not None:
        console.print(
            f"What was checked are its copies in {escape(str(opened.cache))}: delete that folder "
            "to have it fetched again"
        )
    elif errors:
        console.print(
            "To repair it, delete these shards' files and run the command that prepared the store "
            "again: it makes their videos again"
        )
    return 1 if errors else 0


def _preview(store: str, name: str, console: Console) -> int:
    from study.data.store.preview import draw_preview, find_stored  # Matplotlib takes a while

    opened = ClipStore.open(store)
    stored = find_stored(opened, name)
    path = Path(f"preview-{stored.replace('/', '-')}.png")
    draw_preview(opened, stored, path)
    console.print(f"{escape(stored)} is drawn in {escape(str(path))}")
    return 0


class _Display:
    """A bar where the output is a terminal, a line now and then where it isn't."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bar = Bar(
            TextColumn("Preparing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, details="")
        self._printed = self._began = clock()
        self._finished: deque[tuple[float, int]] = deque()  # when there were so many

    def __enter__(self) -> "_Display":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        now = self._clock()
        rate = self._rate(progress, now)
        details = ["starting"]
        if rate > 0:
            details = [f"{rate:.1f} videos/s" if rate >= 0.1 else f"{1 / rate:.0f} s a video"]
        if rate > 0 and progress.done < progress.total:
            details.append(f"{_duration((progress.total - progress.done) / rate)} left")
        if progress.skipped:
            details.append(f"{progress.skipped} skipped")
        if progress.elsewhere:
            details.append(f"waiting for {progress.elsewhere} in other processes")
        self._bar.update(
            self._task, total=progress.total, completed=progress.done, details=", ".join(details)
        )
        if not self._console.is_terminal and now - self._printed > _LINE_SECONDS:
            self._printed = now
            self._console.print(
                f"prepared {progress.done} of {progress.total} videos, {', '.join(details)}"
            )

    def _rate(self, progress: Progress, now: float) -> float:
        """Returns videos a second over the last minute, or since the last but one; 0 before any.

        What the processes take to start counts only until the first video is some seconds old.
        """
        if not self._finished:
            self._finished.append((self._began, progress.before))
        if progress.done > self._finished[-1][1]:
            self._finished.append((now, progress.done))
        while len(self._finished) > 2:
            starting = self._finished[0][0] == self._began
            if self._finished[1][0] >= now - (_STARTING_SECONDS if starting else _RATE_SECONDS):
                break
            self._finished.popleft()
        since, before = self._finished[0]
        return (self._finished[-1][1] - before) / max(now - since, 1e-9)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
