"""``python -m study.prepare``: turns a dataset's videos into a clip store."""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from study.data.datasets import embedded as embedded_dataset
from study.data.datasets.annotations import Annotations
from study.data.datasets.catalog import annotate, list_datasets
from study.data.flow.compute import BACKENDS, FlowSettings
from study.data.store.clip_store import ClipStore, StoreSettings
from study.data.store.embedded import EMBEDDED_STORE
from study.data.store.preparation import GPU_WORKERS, PreparationSummary, Progress, prepare
from study.data.store.preview import draw_preview
from study.data.store.remote import is_uri
from study.data.store.upload import check_place, upload

__all__ = ["main"]

_LINE_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = _parser().parse_args(words)
    console = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
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
        if given.dataset is None and given.upload:
            return _upload(given.store, given.upload, console)
        _check_cluster(given)
        annotations = _annotations(given)
        settings = _settings(given)
        if given.upload:
            check_place(given.upload, settings)
        _prepare(given, annotations, settings, console)
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
    parser = argparse.ArgumentParser(
        prog="python -m study.prepare",
        description="Decodes a dataset's videos and computes their optical flow, once, into a clip "
        "store. Killed at any moment, the same command goes on where it stopped; run again later, "
        "it adds the videos that came since.",
    )
    add = parser.add_argument
    add("dataset", nargs="?", help=f"one of: {', '.join(list_datasets())}")
    add("--store", metavar="DIR", required=True, help="the clip store to make")
    add(
        "--upload",
        metavar="URI",
        help="then copy the store there, such as to s3://bucket/store; without a dataset just copy",
    )
    add("--videos", type=Path, metavar="DIR", help="folder of the videos")
    add("--splits", type=Path, metavar="DIR", help="folder of the official split files")
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
    add("--quality", type=int, metavar="Q", help="of the JPEGs, 1 to 100 (95)")
    add("--flow-backend", metavar="NAME", help=f"one of: {', '.join(sorted(BACKENDS))}")
    add(
        "--flow-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"of the flow; may be repeated: {', '.join(sorted(_flow_options()))}",
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


def _flow_options() -> dict[str, type]:
    defaults = FlowSettings()
    return {
        field.name: type(getattr(defaults, field.name))
        for field in fields(FlowSettings)
        if field.name != "backend"
    }


def _settings(given: argparse.Namespace) -> StoreSettings:
    """The defaults, or the embedded dataset's, with what was given in their place."""
    embedded = given.dataset == "embedded"
    settings = EMBEDDED_STORE if embedded else StoreSettings(dataset=given.dataset)
    assert settings.flow is not None
    flow: dict[str, Any] = {"backend": given.flow_backend} if given.flow_backend else {}
    if given.flow is not None and (flow or given.flow_option):
        raise ValueError("--flow DIR takes flow as it is: no --flow-backend or --flow-option")
    options = _flow_options()
    for option in given.flow_option:
        name, _, value = option.partition("=")
        if name not in options:
            raise ValueError(f"unknown flow option {name!r}; there are: {', '.join(options)}")
        try:
            flow[name] = options[name](value)
        except ValueError:
            raise ValueError(
                f"flow option {name} takes {_KINDS[options[name]]}, got {value!r}"
            ) from None
    changed = {
        "short_side": given.short_side,
        "frame_step": given.frame_step,
        "stacks": given.stacks,
        "flow_length": given.flow_length,
        "jpeg_quality": given.quality,
        "flow": replace(settings.flow, **flow),
    }
    given_values = {name: value for name, value in changed.items() if value is not None}
    if given.flow is not None:
        given_values["flow"] = None
    settings = replace(settings, **given_values)
    if given.flow_length is not None and settings.stacks is None:
        raise ValueError(
            "--flow-length is the length of stored stacks and needs --stacks; without it all flow "
            "is stored, for stacks of any length"
        )
    return settings


_KINDS = {int: "a whole number", float: "a number"}


def _annotations(given: argparse.Namespace) -> Annotations:
    if given.dataset is None:
        raise ValueError(f"name a dataset: {', '.join(list_datasets())}")
    annotations = annotate(
        given.dataset, videos=given.videos, splits=given.splits, group=given.group
    )
    if given.dataset != "embedded" and given.videos is None:
        raise ValueError(f"dataset {given.dataset} needs --videos DIR, the folder of its videos")
    return annotations


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


def _prepare(
    given: argparse.Namespace,
    annotations: Annotations,
    settings: StoreSettings,
    console: Console,
) -> None:
    with ExitStack() as stack:
        videos = given.videos
        if videos is None:  # the embedded dataset's
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="embedded-"))
            videos = Path(folder)
            console.print("Rendering the embedded dataset's videos")
            embedded_dataset.render_dataset(videos)
        display = stack.enter_context(_ProgressDisplay(console))
        how = {
            "flow_folder": given.flow,
            "workers": given.workers,
            "progress": display.show,
            "deadline": given.deadline,
        }
        if given.address is None:
            how["retry_skipped"] = given.retry_skipped
            summary = prepare(annotations, videos, given.store, settings, **how)
        else:
            from study.cluster.preparation import prepare_on_cluster  # Ray takes a second

            summary = prepare_on_cluster(
                given.address, annotations, videos, given.store, settings, nodes=given.nodes, **how
            )
    _report(summary, given.store, console)
    if summary.stored == 0:
        raise RuntimeError("no video could be used; the reasons are above")


def _report(summary: PreparationSummary, store: Path, console: Console) -> None:
    if summary.prepared == 0:
        console.print("The store is complete: there was nothing to do.")
    console.print(
        f"[bold]{summary.stored} videos[/] in {escape(str(store))}, {_size(summary.bytes)}, "
        f"fingerprint {summary.fingerprint}; {summary.prepared} prepared in "
        f"{_duration(summary.seconds)}"
    )
    for split, parts in summary.listed.items():
        missing = summary.missing[split]
        if any(missing.values()):
            told = ", ".join(
                f"{missing[part]} of {listed} {part} videos" for part, listed in parts.items()
            )
            console.print(f"[bold red]MISSING from split {escape(split)}: {told}[/]")
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
            console.print(f"uploaded {_size(done)} of {_size(total)}")

    summary = upload(store, uri, progress=show)
    copied = "nothing was to be copied"
    if summary.copied:
        copied = f"{summary.copied} files copied, {_size(summary.bytes)}"
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
            "to have it fetched anew"
        )
    elif errors:
        console.print(
            "To mend it, delete these shards' files and run the command that prepared the store "
            "again: it makes their videos anew"
        )
    return 1 if errors else 0


def _preview(store: str, name: str, console: Console) -> int:
    opened = ClipStore.open(store)
    names, skipped = (
        [known for known in videos if name in (known, known.rpartition("/")[2])]
        for videos in (opened.names, opened.skipped)
    )
    if len(names) != 1:
        near = names or get_close_matches(name, opened.names, cutoff=0.4) or opened.names[:3]
        if skipped and not names:
            raise ValueError(f"{skipped[0]} was skipped: {opened.skipped[skipped[0]]}")
        raise ValueError(
            f"{store} has {'several videos' if names else 'no video'} {name!r}"
            + (f"; there are: {', '.join(near)}" if near else "")
        )
    path = Path(f"preview-{names[0].replace('/', '-')}.png")
    draw_preview(opened, names[0], path)
    console.print(f"{escape(names[0])} is drawn in {escape(str(path))}")
    return 0


class _ProgressDisplay:
    """A bar where the output is a terminal, a line now and then where it isn't."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("Preparing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, told="")
        self._began = time.monotonic()
        self._printed = self._began

    def __enter__(self) -> "_ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        rate = (progress.done - progress.before) / max(now - self._began, 1e-9)
        told = [f"{rate:.1f} videos/s"]
        if rate > 0 and progress.done < progress.total:
            told.append(f"{_duration((progress.total - progress.done) / rate)} left")
        if progress.skipped:
            told.append(f"{progress.skipped} skipped")
        if progress.elsewhere:
            told.append(f"waiting for {progress.elsewhere} in other processes")
        self._bar.update(
            self._task, total=progress.total, completed=progress.done, told=", ".join(told)
        )
        if not self._console.is_terminal and now - self._printed > _LINE_SECONDS:
            self._printed = now
            self._console.print(
                f"prepared {progress.done} of {progress.total} videos, {', '.join(told)}"
            )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _size(bytes_: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes_ >= size:
            return f"{bytes_ / size:.1f} {unit}"
    return f"{bytes_} bytes"


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
