"""``python -m study.report``: a study's results as one HTML page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import search_spaces
from study.results.figures import write_figures
from study.results.findings import studies
from study.results.page import render_page
from study.results.store import DamagedResultError, open_results

__all__ = ["main"]

DONE, FAILED, REFUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused input."""
    options = _parser().parse_args(arguments)
    try:
        output = _report(options)
    except DamagedResultError as error:
        return _stopped(str(error), FAILED)
    except (ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return _stopped(str(error), REFUSED)
    except OSError as error:
        return _stopped(str(error), FAILED)
    except KeyboardInterrupt:
        return _stopped("interrupted", FAILED)
    print(f"wrote {output}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.report",
        description="A study's tables, comparisons, confusions, search and curves as one HTML "
        "page that needs no network.",
    )
    parser.add_argument(
        "--results", default="results", metavar="DIR", help="folder or URI (default: results)"
    )
    parser.add_argument(
        "--space",
        metavar="FILE.py|MODULE:NAME",
        help="a space of your own, whose tables and labels the page then has",
    )
    parser.add_argument("--study", help="the study (default: the last that started a training)")
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
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="write every figure there, too, as PNG, SVG and PDF",
    )
    return parser


def _report(options: argparse.Namespace) -> Path:
    output: Path = options.output
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder; name a file, such as report.html")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: there is no folder {output.parent}")
    if options.space:
        search_spaces.load(options.space)
    store = open_results(options.results)
    study = options.study or next(iter(studies(store)), None)
    if study is None:
        raise ValueError(f"{store.root!r} holds no training; run python -m study.run first")
    for space in sorted({*store.read("rows", columns=["space"], study=study)["space"].to_pylist()}):
        if space not in search_spaces.names():
            print(
                f"study.report: space {space!r} isn't known here, so the page lacks its tables and "
                "labels; give --space FILE.py or MODULE:NAME",
                file=sys.stderr,
            )
    text = render_page(store, study, against=options.against, protocol=options.protocol)
    if options.figures:
        written = write_figures(
            store, study, options.figures, against=options.against, protocol=options.protocol
        )
        print(f"wrote {len(written)} files to {options.figures}")
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(output)
    return output


def _stopped(message: str, code: int) -> int:
    print(f"study.report: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
