"""A table for a paper: LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from ocl.report import Cell, Table

SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "→": r"$\to$",
        "–": "--",
        "−": "$-$",
        "↓": r"$\downarrow$",
        "\u00a0": "~",
        "\n": " ",
    }
)


def latex(table: Table) -> str:
    """A `table` environment; the preamble needs `\\usepackage{booktabs}`. What is set small stands in brackets."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{_text(table.title)}. {_text(table.caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _line(table.columns),
        r"\midrule",
        *(_line(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[Cell]) -> str:
    texts = [_text(cell) if isinstance(cell, str) else f"{_text(cell[0])} ({_text(cell[1])})" for cell in cells]
    return " & ".join(texts) + r" \\"


def _text(text: str) -> str:
    return text.translate(SPECIAL)
