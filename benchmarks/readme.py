"""Writes the table in README.md, and its numbers as ``readme.csv``, from a study's results.

    make study
    python -m benchmarks.readme [--results DIR]

A test compares the two, so that the README shows what a study came to.
"""

import argparse
from pathlib import Path

from study.results import tables
from study.results.store import ResultStore, open_results

README = Path(__file__).parents[1] / "README.md"
RECORD = Path(__file__).with_name("readme.csv")
STUDY, TABLE = "stilt-embedded", "stilt-4"
BEGIN, END = "<!-- python -m benchmarks.readme writes this -->\n```\n", "```\n"


def block(store: ResultStore, study: str) -> str:
    """Returns the table's lines for a study, without what is written below it."""
    lines = tables.section(tables.load(TABLE, store, study)).text().split("\n\n")
    return f"{lines[1]}\n"


def replaced(text: str, table: str) -> str:
    """Returns a text with the table between the marks.

    Raises:
        ValueError: If the text has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN!r} … {END!r} in the text")
    return f"{before}{BEGIN}{table}{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", default="results", metavar="DIR", help="default: results")
    store = open_results(parser.parse_args().results)
    README.write_text(replaced(README.read_text(), block(store, STUDY)))
    RECORD.write_text(tables.render(TABLE, store, "csv", STUDY) + "\n")


if __name__ == "__main__":
    main()
