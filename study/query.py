"""``python -m study.query``: SQL over the results, and the papers' tables."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import duckdb

from study.command import DONE, FAILED, REFUSED, Parser, stopped
from study.results.faults import describe_fault, names_not_there
from study.results.grids import FORMATS, Grid
from study.results.output import (
    ANSWER_FORMATS,
    LINES_SHOWN,
    check_output,
    print_answer,
    write_answer,
)
from study.results.schema import VIEWS
from study.results.status import read_failed, read_statuses, render_status
from study.results.store import DamagedResultError, ResultStore, open_results

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 done, 1 failed, 2 refused input."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in ("study", "protocol"):
        if getattr(options, name) and not options.table and options.compare is None:
            parser.error(
                f"--{name} goes with --table or --compare; in SQL, write WHERE {name} = '…'"
            )
    if options.study and options.compare is not None:
        parser.error("--compare takes the studies itself: --compare STUDY …")
    if options.against and options.compare is None:
        parser.error("--against goes with --compare")
    if options.output is not None and (options.sql is None or options.format is not None):
        parser.error(
            "--output goes with SQL, and its ending chooses the format in place of --format"
        )
    options.format = options.format or "text"
    if options.traceback and options.status is None:
        parser.error("--traceback goes with --status")
    try:
        _answer(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The pipe's reader has closed it; Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return stopped("study.query", "interrupted", FAILED)
    except DamagedResultError as error:
        return stopped("study.query", str(error), FAILED)
    except (OSError, duckdb.OperationalError, duckdb.InvalidInputException) as error:
        missing = isinstance(error, FileNotFoundError)
        return stopped("study.query", describe_fault(error), REFUSED if missing else FAILED)
    except (ValueError, duckdb.Error) as error:
        return stopped("study.query", describe_fault(error), REFUSED)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m study.query",
        description="SQL over the results (read-only), and the papers' tables with ours beside.",
        epilog="example: python -m study.query "
        "\"SELECT arm, avg(top1) FROM rows WHERE part = 'test' GROUP BY protocol, arm\"",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("sql", nargs="?", metavar="SQL", help="a SELECT over the views of --list")
    what.add_argument("--table", metavar="NAME", help="a paper's table, such as stilt-4")
    what.add_argument("--list", action="store_true", help="show views, columns and tables")
    what.add_argument(
        "--status",
        nargs="?",
        const="",
        metavar="STUDY",
        help="where each study, or one of them, stands: what runs, what waits, what failed",
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="with --status, the whole tracebacks of failed trainings, not the last lines",
    )
    what.add_argument(
        "--compare",
        nargs="*",
        metavar="STUDY",
        help="the arms of a study (default: the last) against one of them, with intervals; of "
        "several, each on a dataset of its own, ranks over the datasets too",
    )
    parser.add_argument("--against", metavar="ARM", help="the arm that --compare compares with")
    parser.add_argument("--study", help="the study that --table shows (default: the last)")
    parser.add_argument(
        "--protocol",
        metavar="HASH",
        help="the protocol that --table or --compare shows, or its first digits (default: the "
        "study's last)",
    )
    parser.add_argument(
        "--space",
        metavar="FILE.py|MODULE:NAME",
        help="a space of your own, whose tables and labels --table, --compare and --list then know",
    )
    parser.add_argument(
        "--results", default="results", metavar="DIR", help="folder or URI (default: results)"
    )
    parser.add_argument(
        "--format",
        choices=ANSWER_FORMATS,
        help=f"default: text, with at most {LINES_SHOWN} lines of an answer to SQL; json is for "
        "SQL only",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="writes the answer to SQL to FILE.parquet, .csv, .json or .xlsx, however long it is",
    )
    return parser


def _answer(options: argparse.Namespace) -> None:
    if options.space:
        import search_spaces

        search_spaces.load(options.space)
    if options.list:
        print(_listing())
        return
    store = open_results(options.results)
    if options.status is not None:
        print(_statuses(store, options.status, whole=options.traceback))
    elif options.compare is not None:
        print(_comparisons(store, options))
    elif options.table:
        from study.results.tables import render

        print(render(options.table, store, options.format, options.study, options.protocol))
    else:
        _query(store, options)


def _comparisons(store: ResultStore, options: argparse.Namespace) -> str:
    from study.results import findings

    if options.format not in FORMATS:
        raise ValueError(
            f"there is no format {options.format!r} of --compare; there are {', '.join(FORMATS)}"
        )
    selections = [
        one
        for study in options.compare or findings.studies(store)[:1]
        for one in findings.selected(store, study, protocol=options.protocol)
    ]
    found = [findings.find(store, one.shown, against=options.against) for one in selections]
    if options.format == "csv":
        return findings.comparison_csv(found)
    shown = [section for one in found for section in findings.sections(one)]
    shown += findings.over_datasets(found)
    said = [section.rendered(options.format) for section in shown]
    return "\n\n\n".join([*said, *(f"{one.note}." for one in selections if one.note)])


def _statuses(store: ResultStore, study: str, *, whole: bool) -> str:
    statuses = read_statuses(store)
    shown = [status for status in statuses if study in ("", status.study)]
    if not statuses:
        raise ValueError("no study has written its status here yet; it does so when it starts")
    if not shown:
        there = ", ".join(status.study for status in statuses)
        raise ValueError(f"there is no study {study!r} with a status; there are {there}")
    width = shutil.get_terminal_size().columns
    return "\n\n".join(
        render_status(one, read_failed(store, one.study), whole=whole, width=width) for one in shown
    )


def _listing() -> str:
    """Returns the views with their columns, and the tables, as text."""
    import search_spaces

    lines = []
    for view, columns in VIEWS.items():
        rows = [[f"  {column.name}", str(column.type), column.about] for column in columns]
        grid = Grid(header=[view, "type", "holds"], rows=rows, right=[False] * 3)
        lines += [grid.text(), ""]
    names = [[name, table.title] for name, (_, table) in search_spaces.tables().items()]
    lines.append(Grid(header=["table", "shows"], rows=names, right=[False] * 2).text())
    return "\n".join(lines)


def _query(store: ResultStore, options: argparse.Namespace) -> None:
    if options.output is not None:
        check_output(options.output)
    with store.connect() as connection:
        answer = connection.execute(options.sql)
        if answer.is_empty:
            for name in names_not_there(connection, options.sql):
                print(f"study.query: {name}", file=sys.stderr)
        if options.output is None:
            print_answer(answer, options.format, sys.stdout)
        else:
            write_answer(answer, options.output)


if __name__ == "__main__":
    sys.exit(main())
