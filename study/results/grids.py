"""A grid of cells as aligned text, Markdown, LaTeX or CSV, each with what it must escape."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

__all__ = ["FORMATS", "Grid", "latex_text", "markdown_text", "printable"]

FORMATS = ("text", "markdown", "latex", "csv")
GAP = "  "
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Cells under one or two lines of headers.

    Attributes:
        header: The header of each column.
        rows: The cells.
        right: Whether each column is set flush right, as numbers are.
        upper_header: What stands above each column's header; equal neighbours become one cell.
            Empty when there is no such line.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    upper_header: Sequence[str] = ()

    def widths(self) -> list[int]:
        """Returns each column's width in characters, with room for the upper header."""
        lines = [self.header, *self.rows]
        widths = [max(cell_len(printable(line[i])) for line in lines) for i in range(len(self))]
        for first, last, name in self.spans():
            free = sum(widths[first:last]) + len(GAP) * (last - first - 1)
            for extra in range(cell_len(printable(name)) - free):
                widths[last - 1 - extra % (last - first)] += 1
        return widths

    def width(self) -> int:
        """Returns the width of the grid as text, in characters."""
        return sum(self.widths()) + len(GAP) * (len(self) - 1)

    def __len__(self) -> int:
        return len(self.header)

    def text(self) -> str:
        """Returns the grid with its columns aligned."""
        widths = self.widths()
        lines = []
        if self.upper_header:
            cells = []
            for first, last, name in self.spans():
                width = sum(widths[first:last]) + len(GAP) * (last - first - 1)
                name = name if last - first == 1 else name.center(width)
                cells.append(_padded(name, width, right=self.right[last - 1]))
            lines.append(GAP.join(cells).rstrip())
        lines.append(self._line(self.header, widths))
        lines.append(GAP.join("─" * width for width in widths))
        return "\n".join([*lines, *(self._line(row, widths) for row in self.rows)])

    def markdown(self) -> str:
        """Returns the grid as a table in GitHub's Markdown."""
        rule = ["---:" if right else ":---" for right in self.right]
        lines = [[markdown_text(cell) for cell in line] for line in (self._joined(), *self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))

    def latex(self) -> str:
        """Returns the grid as a LaTeX tabular that needs no package."""
        columns = "".join("r" if right else "l" for right in self.right)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\hline"]
        if self.upper_header:
            spans = (
                rf"\multicolumn{{{last - first}}}{{{'c' if name else 'l'}}}{{{latex_text(name)}}}"
                for first, last, name in self.spans()
            )
            lines.append(" & ".join(spans) + r" \\")
        body = [" & ".join(map(latex_text, line)) + r" \\" for line in (self.header, *self.rows)]
        return "\n".join([*lines, body[0], r"\hline", *body[1:], r"\hline", r"\end{tabular}"])

    def csv(self) -> str:
        """Returns the grid as comma-separated values."""
        sink = io.StringIO()
        csv.writer(sink, lineterminator="\n").writerows([self._joined(), *self.rows])
        return sink.getvalue().rstrip("\n")

    def _joined(self) -> list[str]:
        """Returns both headers as one line."""
        upper = self.upper_header or [""] * len(self)
        return [", ".join(filter(None, pair)) for pair in zip(upper, self.header, strict=True)]

    def spans(self) -> list[tuple[int, int, str]]:
        """Returns first column, column after the last, and text of each upper header."""
        spans: list[tuple[int, int, str]] = []
        for i, name in enumerate(self.upper_header):
            if spans and name and spans[-1][2] == name:
                spans[-1] = (spans[-1][0], i + 1, name)
            else:
                spans.append((i, i + 1, name))
        return spans

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        padded = (
            _padded(cell, width, right=right)
            for cell, width, right in zip(cells, widths, self.right, strict=True)
        )
        return GAP.join(padded).rstrip()


def printable(text: str) -> str:
    """Returns the text on one line, with control characters as escapes that are seen."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def latex_text(text: str) -> str:
    """Returns the text with what LaTeX would interpret escaped."""
    return "".join(_LATEX.get(c, c) for c in printable(text))


def markdown_text(text: str) -> str:
    """Returns the text with what Markdown would interpret escaped."""
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _padded(text: str, width: int, *, right: bool) -> str:
    text = printable(text)
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank
