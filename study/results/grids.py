"""Grids of cells, and sections of them with notes, as text, Markdown or LaTeX."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

__all__ = [
    "FORMATS",
    "MISSING",
    "Grid",
    "Section",
    "latex_text",
    "markdown_text",
    "natural_order",
    "printable",
]

FORMATS = ("text", "markdown", "latex", "csv")
GAP = "  "
MISSING = "–"  # in place of a number that isn't there
WIDTH = 80  # of text
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
    '"': r"\textquotedblright{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "−": "$-$",
    "·": r"$\cdot$",
    "→": r"$\to$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
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
        """Returns the grid as a LaTeX tabular; it needs the package booktabs."""
        columns = "".join("r" if right else "l" for right in self.right)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        if self.upper_header:
            spans = (
                rf"\multicolumn{{{last - first}}}{{{'c' if name else 'l'}}}{{{latex_text(name)}}}"
                for first, last, name in self.spans()
            )
            lines.append(" & ".join(spans) + r" \\")
            rules = (rf"\cmidrule(lr){{{a + 1}-{b}}}" for a, b, name in self.spans() if name)
            lines.append(" ".join(rules))
        body = [" & ".join(map(latex_text, line)) + r" \\" for line in (self.header, *self.rows)]
        rest = [r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}"]
        return "\n".join([*lines, body[0], *rest])

    def parts(self, width: int) -> list["Grid"]:
        """Returns the grid in as few as fit a width, each with the first column.

        What stands under one upper header is never divided.
        """
        if not self.upper_header:
            return [self]
        parts: list[Grid] = []
        columns: list[int] = []
        for first, last, _ in self.spans()[1:]:
            wider = self._of([0, *columns, *range(first, last)])
            if columns and wider.width() > width:
                parts.append(self._of([0, *columns]))
                columns = []
            columns += range(first, last)
        return [*parts, self._of([0, *columns])]

    def _of(self, columns: Sequence[int]) -> "Grid":
        """Returns some of the columns."""
        return Grid(
            upper_header=[self.upper_header[i] for i in columns],
            header=[self.header[i] for i in columns],
            rows=[[row[i] for i in columns] for row in self.rows],
            right=[self.right[i] for i in columns],
        )

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


@dataclass(frozen=True, kw_only=True)
class Section:
    """A grid with its title and what to know of it.

    Attributes:
        title: What it shows, in a line.
        grid: The numbers.
        notes: What they mean.
        warnings: What a reader must not overlook; before the notes.
    """

    title: str
    grid: Grid
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def rendered(self, format: str) -> str:
        """Returns the section as ``text``, ``markdown`` or ``latex``."""
        return {"text": self.text, "markdown": self.markdown, "latex": self.latex}[format]()

    def text(self) -> str:
        """Returns the section for a terminal; a grid that is too wide in parts."""
        notes = [textwrap.fill(f"!! {warning}", WIDTH) for warning in self.warnings]
        notes += [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in self.notes]
        grids = (grid.text() for grid in self.grid.parts(WIDTH))
        return "\n\n".join([printable(self.title), *grids, "\n".join(notes)]).rstrip()

    def markdown(self) -> str:
        """Returns the section in GitHub's Markdown."""
        notes = [f"- **{markdown_text(warning)}**" for warning in self.warnings]
        notes += [f"- {markdown_text(note)}" for note in self.notes]
        title = f"**{markdown_text(self.title)}**"
        return "\n\n".join([title, self.grid.markdown(), "\n".join(notes)]).rstrip()

    def latex(self) -> str:
        """Returns the section as a LaTeX table."""
        notes = [rf"\textbf{{{latex_text(warning)}}}" for warning in self.warnings]
        notes += [latex_text(note) for note in self.notes]
        return "\n".join(
            [
                r"\begin{table}  % \usepackage{booktabs}",
                r"\centering",
                rf"\caption{{{latex_text(self.title)}}}",
                self.grid.latex(),
                r"",
                r"\footnotesize",
                *(rf"{note}\par" for note in notes),
                r"\end{table}",
            ]
        )


def natural_order(text: str) -> list[tuple[int, str]]:
    """Returns a key that sorts texts with their numbers by size: 1, 2, 10."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


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
