"""Plain-text tables for what the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Number, Real


def format_table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Align ``rows`` under ``header``; columns that hold only numbers are aligned to the right.

    Args:
        rows: one sequence of values per line, each as long as ``header``. ``None`` is shown as ``-``, a float
            with at most four significant digits.
        header: names of the columns.

    Returns:
        The table without a final newline: header, a rule, one line per row.

    Raises:
        ValueError: a row is not as long as the header.

    >>> print(format_table([["left", 8], ["right", 12]], ["side", "cases"]))
    side   cases
    -----  -----
    left       8
    right     12
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"Expected {len(header)} values in each row ({', '.join(header)}), got {len(row)}: {row}."
            )
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    right = [_is_numeric([row[i] for row in rows]) for i in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def _text(value: object) -> str:
    if value is None:
        return "-"
    is_real = isinstance(value, Real) and not isinstance(value, Integral)  # also NumPy's, which are no floats
    return f"{value:.4g}" if is_real else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)


def _is_numeric(column: Sequence[object]) -> bool:
    # A missing value beside numbers leaves the column one of numbers.
    present = [value for value in column if value is not None]
    return bool(present) and all(_is_number(value) for value in present)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
    return "  ".join(aligned).rstrip()
