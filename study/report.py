"""``python -m study.report``: the results of a study, or of several, as one HTML page."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import starmap
from pathlib import Path

import search_spaces
from study.command import DONE, Parser, check_output, ended
from study.results.figures import write_figures
from study.results.findings import studies
from study.results.live import LivePage, PageServer, watch, write_page
from study.results.page import render_comparison, render_page
from study.results.status import is_running
from study.results.store import ResultStore, open_results

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused input."""
    options = _parser().parse_args(arguments)
    return ended("study.report", partial(_report, options))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m study.report",
        description="A study's tables, comparisons, confusions, search and curves as one HTML "
        "page that needs no network.",
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=["results"],
        metavar="DIR",
        help="folder or URI (default: results); of several, each one's study is compared with "
        "that of the first",
    )
    parser.add_argument(
        "--study",
        nargs="+",
        metavar="NAME",
        help="the study (default: the last that started a training); several are compared: one "
        "for each folder, or all of the same",
    )
    parser.add_argument(
        "--space",
        metavar="FILE.py|MODULE:NAME",
        help="a space of your own, whose tables and labels the page then has",
    )
    parser.add_argument(
        "--protocol",
        metavar="HASH",
        help="the protocol to show, or its first digits (default: the last that has rows)",
    )
    parser.add_argument(
        "--against", metavar="ARM", help="the arm that the others are compared with"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help="default: report.html"
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--serve",
        action="store_true",
        help="serve the page to this machine's browsers, renewed as the study goes on, and write "
        "no file; Ctrl-C ends it",
    )
    ways.add_argument(
        "--watch", action="store_true", help="rewrite the file until the study has ended"
    )
    ways.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="write every figure of the one study there, too, as PNG, SVG and PDF",
    )
    return parser


def _report(options: argparse.Namespace) -> int:
    if not options.serve:
        check_output(options.output)
    if options.space:
        search_spaces.load(options.space)
    asked = [(open_results(root), name) for root, name in _paired(options.results, options.study)]
    named = [(store, name or _last(store)) for store, name in asked]
    if options.figures and len(named) > 1:
        raise ValueError("--figures writes those of one study; name one --results and --study")
    _warn_of_unknown_spaces(named)
    shown = {"against": options.against, "protocol": options.protocol}
    render = (
        partial(render_page, *named[0], **shown)
        if len(named) == 1
        else partial(render_comparison, named, **shown)
    )
    if options.serve:
        _serve(partial(render, live="poll"))
        return DONE
    if options.watch:
        print(f"rewriting {options.output} until the study has ended; Ctrl-C stops it", flush=True)
        watch(render, options.output, runs=lambda: any(starmap(is_running, named)))
    else:
        page = render()
        if options.figures:
            written = write_figures(*named[0], options.figures, **shown)
            print(f"wrote {len(written)} files to {options.figures}")
        write_page(page, options.output)
    print(f"wrote {options.output}")
    return DONE


def _paired(folders: Sequence[str], names: Sequence[str] | None) -> list[tuple[str, str | None]]:
    """Returns each study's folder and name; None for the last study of its folder."""
    if names is None:
        return [(folder, None) for folder in folders]
    if 1 not in (len(folders), len(names)) and len(folders) != len(names):
        raise ValueError(
            f"--study takes one name, or one for each folder of --results; got {len(names)} names "
            f"for {len(folders)} folders"
        )
    count = max(len(folders), len(names))
    every = (list(values) * (count if len(values) == 1 else 1) for values in (folders, names))
    return list(zip(*every, strict=True))


def _last(store: ResultStore) -> str:
    """Returns the study that last started a training."""
    for study in studies(store):
        return study
    raise ValueError(f"{store.root!r} holds no study; run python -m study.run first")


def _warn_of_unknown_spaces(named: Iterable[tuple[ResultStore, str]]) -> None:
    spaces = {
        space
        for store, study in named
        for space in store.read("rows", columns=["space"], study=study)["space"].to_pylist()
    }
    for space in sorted(spaces.difference(search_spaces.names())):
        print(
            f"study.report: space {space!r} isn't known here, so the page lacks its tables and "
            "labels; give --space FILE.py or MODULE:NAME",
            file=sys.stderr,
        )


def _serve(render: Callable[[], str]) -> None:
    page = LivePage(render)
    page.content()  # so that what can't be shown is refused here
    with PageServer(page) as server:
        print(f"serving {server.address}\nCtrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
