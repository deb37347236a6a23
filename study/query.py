"""``python -m study.query``: SQL over the results, and the papers' tables."""

import argparse
import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from itertools import islice
from typing import Any

import duckdb

from study.results.grids import FORMATS, Grid
from study.results.schema import VIEWS
from study.results.status import read_failed, read_statuses, render_status
from study.results.store import DamagedResultError, ResultStore, open_results

__all__ = ["main"]

DONE, FAILED, REFUSED = 0, 1, 2
LINES_SHOWN = 100  # of a result as text
CELL_WIDTH = 60  # of a cell as text


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
    if options.traceback and options.status is None:
        parser.error("--traceback goes with --status")
    try:
        _answer(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The pipe's reader has closed it; Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _stopped("interrupted", FAILED)
    except DamagedResultError as error:
        return _stopped(str(error), FAILED)
    except (OSError, duckdb.OperationalError, duckdb.InvalidInputException) as error:
        missing = isinstance(error, FileNotFoundError)
        return _stopped(_one_line(error), REFUSED if missing else FAILED)
    except (ValueError, duckdb.Error) as error:
        return _stopped(_one_line(error), REFUSED)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.query",
        description="SQL over the results (read-only), and the papers' tables with ours beside.",
        epilog="example: python -m study.query "
        '"SELECT arm, avg(top1) FROM rows GROUP BY protocol, arm"',
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
        default="text",
        choices=[*FORMATS, "json"],
        help=f"text shows at most {LINES_SHOWN} lines, the others all; json is for SQL only",
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
        _query(store, options.sql, options.format)


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


def _query(store: ResultStore, sql: str, form: str) -> None:
    with store.connect() as connection:
        answer = connection.execute(sql)
    _PRINTERS[form](answer.names, answer.rows())


def _print_text(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    shown = list(islice(rows, LINES_SHOWN))
    cells = [[_short(_cell(value)) for value in row] for row in shown]
    print(Grid(header=names, rows=cells, right=_numeric(names, shown)).text())
    if more := sum(1 for _ in rows):
        print(f"… and {more:,} more rows; use --format csv to have them all")


def _print_markdown(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    print(_grid(names, rows).markdown())


def _print_latex(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    print(_grid(names, rows).latex())


def _print_csv(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if value is None else _exact(value) for value in row] for row in rows)


def _print_json(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Prints a JSON array with an object for each line."""
    between = "[\n"
    for row in rows:
        line = dict(zip(names, row, strict=True))
        print(between + json.dumps(line, ensure_ascii=False, default=str), end="")
        between = ",\n"
    print("[]" if between == "[\n" else "\n]")


_PRINTERS: dict[str, Callable[[list[str], Iterator[tuple[Any, ...]]], None]] = {
    "text": _print_text,
    "markdown": _print_markdown,
    "latex": _print_latex,
    "csv": _print_csv,
    "json": _print_json,
}


def _grid(names: list[str], rows: Iterator[tuple[Any, ...]]) -> Grid:
    every = list(rows)
    cells = [[_cell(value) for value in row] for row in every]
    return Grid(header=names, rows=cells, right=_numeric(names, every))


def _numeric(names: list[str], rows: Sequence[tuple[Any, ...]]) -> list[bool]:
    """Returns whether each column holds numbers."""
    return [
        any(row[i] is not None for row in rows)
        and all(row[i] is None or type(row[i]) in (int, float) for row in rows)
        for i in range(len(names))
    ]


def _cell(value: Any) -> str:
    """Returns a value as people read it."""
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(_exact(value))


def _exact(value: Any) -> Any:
    """Returns a value that a program reads back as it was."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value


def _short(text: str) -> str:
    return text if len(text) <= CELL_WIDTH else f"{text[: CELL_WIDTH - 1]}…"


def _one_line(error: Exception) -> str:
    """Returns what was wrong, on one line; of an unknown view, with the views that there are."""
    text = str(error).split("\n\nLINE")[0]
    if match := re.search(r"Table with name (.+?) does not exist", text):
        return f"there is no view {match[1]!r}; there are {', '.join(VIEWS)}"
    if isinstance(error, duckdb.PermissionException):
        return f"SQL reads the results and nothing else; there are {', '.join(VIEWS)}"
    return " ".join(text.split())


def _stopped(message: str, code: int) -> int:
    print(f"study.query: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
