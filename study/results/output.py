"""Answers to queries as text, Markdown, LaTeX, CSV, JSON, Parquet and Excel."""

import csv
import importlib.util
import io
import json
import math
from collections.abc import Callable, Sequence
from datetime import date, time
from itertools import islice
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow.parquet as pq

from study.files import whole_file
from study.results.connection import Answer, TooLargeError, lines_of
from study.results.grids import Grid
from study.results.schema import finite_or_null

__all__ = ["ANSWER_FORMATS", "LINES_SHOWN", "check_output", "print_answer", "write_answer"]

LINES_SHOWN = 100  # of an answer as text
LINES_COUNTED = 10_000_000  # of those that aren't shown
LINES_SET = 10_000  # of an answer as Markdown or LaTeX
LINES_OF_A_SHEET = 2**20 - 1  # below the header, in Excel
LETTERS_OF_A_CELL = 32_767  # in Excel
EXACT_IN_EXCEL = 2**53  # whole numbers are exact below
CELL_WIDTH = 60  # of a cell as text


def print_answer(answer: Answer, form: str, sink: TextIO) -> None:
    """Prints an answer.

    Args:
        answer: The answer.
        form: One of ``ANSWER_FORMATS``. Text shows at most 100 lines; CSV and JSON have all, as
            they are computed.
        sink: Where to.

    Raises:
        TooLargeError: If it has more lines than Markdown or LaTeX are set with.
    """
    _PRINTERS[form](answer, sink)


def check_output(path: Path) -> None:
    """Checks that an answer can be written to a file.

    Raises:
        ValueError: If its name ends with no known format, or its format needs a package.
        FileNotFoundError: If its folder doesn't exist.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(f"{path} must end with {', '.join(_WRITERS)}: that chooses the format")
    if path.suffix.lower() == ".xlsx" and importlib.util.find_spec("xlsxwriter") is None:
        raise ValueError("an .xlsx file needs XlsxWriter; pip install 'two-stream-study[xlsx]'")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")


def write_answer(answer: Answer, path: Path) -> None:
    """Writes an answer to a file, whole or not at all.

    Args:
        answer: The answer; it is never held whole.
        path: The file; its ending is the format.

    Raises:
        TooLargeError: If it has more lines or longer cells than Excel takes.
        OSError: If the file can't be written.
    """
    with whole_file(path) as file:
        _WRITERS[path.suffix.lower()](answer, file)


def _print_text(answer: Answer, sink: TextIO) -> None:
    shown: list[tuple[Any, ...]] = []
    lines = 0
    for batch in answer.batches():
        shown += islice(lines_of(batch), LINES_SHOWN - len(shown))
        lines += batch.num_rows
        if lines > LINES_COUNTED:
            break
    cells = [[_short(_cell(value)) for value in row] for row in shown]
    print(Grid(header=answer.names, rows=cells, right=_numeric(answer, shown)).text(), file=sink)
    if more := lines - len(shown):
        count = f"more than {LINES_COUNTED:,}" if lines > LINES_COUNTED else f"{more:,}"
        print(f"… and {count} more rows; use --format csv to have them all", file=sink)


def _print_markdown(answer: Answer, sink: TextIO) -> None:
    print(_grid(answer).markdown(), file=sink)


def _print_latex(answer: Answer, sink: TextIO) -> None:
    print(_grid(answer).latex(), file=sink)


def _print_csv(answer: Answer, sink: TextIO) -> None:
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(answer.names)
    writer.writerows(["" if v is None else _exact(v) for v in row] for row in answer.rows())


def _print_json(answer: Answer, sink: TextIO) -> None:
    """Prints an array with an object for each line."""
    between = "[\n"
    for row in answer.rows():
        print(between + _json(dict(zip(answer.names, row, strict=True))), end="", file=sink)
        between = ",\n"
    print("[]" if between == "[\n" else "\n]", file=sink)


_PRINTERS: dict[str, Callable[[Answer, TextIO], None]] = {
    "text": _print_text,
    "markdown": _print_markdown,
    "latex": _print_latex,
    "csv": _print_csv,
    "json": _print_json,
}
ANSWER_FORMATS = tuple(_PRINTERS)


def _write_parquet(answer: Answer, file: IO[bytes]) -> None:
    with pq.ParquetWriter(file, answer.schema, compression="zstd") as writer:
        for batch in answer.batches():
            writer.write_batch(batch)


def _write_text(answer: Answer, file: IO[bytes], form: str) -> None:
    sink = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    print_answer(answer, form, sink)
    sink.detach()


def _write_xlsx(answer: Answer, file: IO[bytes]) -> None:
    import xlsxwriter

    # A cell holds what the results hold: text that looks like a formula or a link stays text.
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    with xlsxwriter.Workbook(file, options) as book:
        sheet = book.add_worksheet()
        sheet.freeze_panes(1, 0)
        sheet.write_row(0, 0, answer.names, book.add_format({"bold": True}))
        for line, row in enumerate(answer.rows(), 1):
            if line > LINES_OF_A_SHEET:
                raise TooLargeError(
                    f"a sheet has at most {LINES_OF_A_SHEET:,} lines, and the answer has more; "
                    "write it to a .parquet or .csv file, or narrow it with WHERE or LIMIT"
                )
            for column, value in enumerate(row):
                sheet.write(line, column, _excel(value))


def _excel(value: Any) -> Any:
    """Returns a value as a cell holds it; None leaves the cell empty."""
    value = _exact(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if type(value) is int and abs(value) > EXACT_IN_EXCEL:
        return str(value)
    if isinstance(value, str) and len(value) > LETTERS_OF_A_CELL:
        raise TooLargeError(
            f"a cell holds at most {LETTERS_OF_A_CELL:,} letters, and the answer has one of "
            f"{len(value):,}; write it to a .parquet or .csv file"
        )
    return value


_WRITERS: dict[str, Callable[[Answer, IO[bytes]], None]] = {
    ".parquet": _write_parquet,
    ".csv": lambda answer, file: _write_text(answer, file, "csv"),
    ".json": lambda answer, file: _write_text(answer, file, "json"),
    ".xlsx": _write_xlsx,
}


def _grid(answer: Answer) -> Grid:
    rows = list(islice(answer.rows(), LINES_SET + 1))
    if len(rows) > LINES_SET:
        raise TooLargeError(
            f"Markdown and LaTeX are set with at most {LINES_SET:,} lines, and the answer has "
            "more; use --format csv or --output, or narrow it with WHERE or LIMIT"
        )
    cells = [[_cell(value) for value in row] for row in rows]
    return Grid(header=answer.names, rows=cells, right=_numeric(answer, rows))


def _numeric(answer: Answer, rows: Sequence[tuple[Any, ...]]) -> list[bool]:
    """Returns whether each column holds numbers."""
    return [
        any(row[i] is not None for row in rows)
        and all(row[i] is None or type(row[i]) in (int, float) for row in rows)
        for i in range(len(answer.names))
    ]


def _cell(value: Any) -> str:
    """Returns a value as people read it."""
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(_exact(value))


def _exact(value: Any) -> Any:
    """Returns a value that a program reads back as it was."""
    if isinstance(value, list | tuple | dict):
        return _json(value)
    return _plain(value) if isinstance(value, date | time | bytes) else value


def _json(value: Any) -> str:
    """Returns JSON; NaN and infinity, which it lacks, are null."""
    return json.dumps(finite_or_null(value), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    """Returns the text for a time, for bytes (as hexadecimal digits) or for anything else."""
    if isinstance(value, date | time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= CELL_WIDTH else f"{text[: CELL_WIDTH - 1]}…"
