"""Tables of what is known of pictures, by their names: labels and boxes from a CSV."""

from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import io
import multiprocessing
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from rvae_jax.errors import UserError, one_line, printable


class Table:
    """Columns of values by name of the picture; all values of a column have one type.

    Attributes:
      columns: name to ``[n]``, bool, int64, float32 or str.
    """

    def __init__(self, names: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        self._row = {name: i for i, name in enumerate(names)}
        self.columns = dict(columns)

    def __contains__(self, name: str) -> bool:
        return name in self._row

    def row(self, name: str) -> dict[str, bool | int | float | str]:
        """The values of one picture."""
        index = self._row[name]
        values = {column: values[index] for column, values in self.columns.items()}
        return {column: value.item() if isinstance(value, np.generic) else value for column, value in values.items()}


def normalized(name: str) -> str:
    """A name in one form of Unicode: macOS spells letters with accents differently."""
    return unicodedata.normalize("NFC", name)


def read_table(path: Path, files: Mapping[str, int]) -> Table:
    """Reads labels from a CSV with a header, whose first column has the pictures' names.

    A name is a path within the source, or the file's name alone where no other file has the same. A column is bool
    where its values are true and false, 0 and 1, or -1 and 1; int64 where all are integers as they are usually written;
    text where some of the integers have leading zeros or over 64 bits; else float32 where all are numbers; else text.

    The file may be UTF-8, UTF-16 with its mark or Windows-1252. Columns are separated by commas, or, where the header
    has none, by semicolons or tabs, or by what Excel's first line ``sep=;`` says.

    Raises:
      UserError: the file is missing; it has no header, two columns of one name, or a row of another length; no row is a
        picture's; or two rows of one picture differ.
    """
    header, rows = _read_rows(path, files)
    known: dict[str, tuple[int, list[str]]] = {}
    for line, name, values in rows:
        first_line, first = known.setdefault(name, (line, values))
        if values != first:
            raise UserError(
                f"{path}: lines {first_line} and {line} are both of {name} and differ; expected one row of each"
            )
    columns = zip(*(values for _, values in known.values()), strict=True)
    return Table(list(known), {column: _typed(values) for column, values in zip(header, columns, strict=True)})


def read_boxes(path: Path, files: Mapping[str, int]) -> Table:
    """Reads a CSV with the header ``name,left,top,width,height``, in pixels of the upright picture.

    Of several boxes of a picture the largest is taken.

    Raises:
      UserError: as ``read_table``, except for rows that differ; or the columns are others.
    """
    header, rows = _read_rows(path, files)
    expected = ["left", "top", "width", "height"]
    found = printable(", ".join(header))
    if header == expected:
        try:
            boxes = np.array([values for _, _, values in rows], float)
        except ValueError as error:
            found += f" with {one_line(error)}"
        else:
            usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
            areas = np.where(usable, boxes[:, 2] * boxes[:, 3], 0)
            largest = {rows[i][1]: i for i in np.argsort(areas, kind="stable")}  # the last of each name stays
            return Table(list(largest), dict(zip(header, boxes[list(largest.values())].T, strict=True)))
    raise UserError(f"{path}: has the columns name, {found}; expected name, {', '.join(expected)}, in pixels")


def _read_rows(path: Path, files: Mapping[str, int]) -> tuple[list[str], list[tuple[int, str, list[str]]]]:
    """The columns' names, and the rows that name a picture: line, picture and values of each."""
    (_, header), *rows = _read_csv(path, files)
    full_names = _full_names(files)

    def picture(row: list[str]) -> str | None:
        return full_names.get(normalized(row[0].strip().removeprefix("./")))

    if picture(header):
        raise UserError(f"{path}: its first line names the picture {printable(header[0])}; expected a header above it")
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns have the name {printable(twice)}; expected another for each")
    known = [(line, name, row[1:]) for line, row in rows if (name := picture(row))]
    if not known:
        raise UserError(
            f"{path}: none of its {len(rows)} rows names a picture; expected names such as {next(iter(files))}"
        )
    if len(known) < len(rows):
        _say_once(f"{path}: {len(rows) - len(known):,} of {len(rows):,} rows name no picture")
    return header[1:], known


@functools.cache
def _say_once(line: str) -> None:
    """Prints a line in the first process only: each process that makes examples reads the boxes."""
    if multiprocessing.parent_process() is None:
        print(line, flush=True)


def _read_csv(path: Path, files: Mapping[str, int]) -> list[tuple[int, list[str]]]:
    """Rows with the numbers of their lines, the header first; all have as many columns as the header."""
    try:
        text, skipped, delimiter = _dialect(_decoded(path, files))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(skipped + reader.line_num, row) for row in reader if row]
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {reason}; expected a CSV file with a header") from None
    columns = len(rows[0][1]) if rows else 0
    if len(rows) < 2 or columns < 2:
        raise UserError(f"{path}: expected a CSV file with a header, the names of pictures in the first column")
    for line, row in rows:
        if len(row) != columns:
            raise UserError(f"{path}: line {line} has {len(row)} columns, expected {columns} as in the header")
    return _without_empty_columns(path, rows)


def _decoded(path: Path, files: Mapping[str, int]) -> str:
    """The text of a file in UTF-8, in UTF-16 with its mark, or in Windows-1252, which Excel writes."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in content:
        raise UserError(f"{path}: has bytes of zero; expected text in UTF-8, or in UTF-16 with its mark")
    elif any("\udc80" <= character <= "\udcff" for name in files for character in name):
        return content.decode("utf-8-sig", "surrogateescape")  # as Python has names of files that are no text
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if encoding == "cp1252":
                _say_once(f"{path}: is not UTF-8; read as Windows-1252")
            return text
    raise UserError(f"{path}: cannot be read as text; expected UTF-8, UTF-16 with its mark, or Windows-1252")


def _dialect(text: str) -> tuple[str, int, str]:
    """The text without Excel's line ``sep=;``, the number of lines left out, and what separates columns."""
    first, _, rest = text.partition("\n")
    if named := re.fullmatch(r'"?sep=(.)"?', first.strip("\r")):
        return rest, 1, named[1]
    return text, 0, next((mark for mark in ",;\t" if mark in first), ",")


def _without_empty_columns(path: Path, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The rows without columns that have neither a name nor a value; the first column needs no name."""
    (_, header), *others = rows
    kept = [0]
    for i in range(1, len(header)):
        filled = next((line for line, row in others if row[i].strip()), None)
        if header[i].strip():
            kept.append(i)
        elif filled is not None:
            raise UserError(f"{path}: column {i + 1} has a value in line {filled}, but no name in the header")
    return [(line, [row[i] for i in kept]) for line, row in rows]


def _full_names(files: Mapping[str, int]) -> dict[str, str]:
    """The names that a CSV may use for a picture: the path, or its last part where that is unique."""
    last_parts: dict[str, list[str]] = {}
    for name in files:
        last_parts.setdefault(normalized(PurePosixPath(name).name), []).append(name)
    unique = {last: names[0] for last, names in last_parts.items() if len(names) == 1}
    return unique | {normalized(name): name for name in files}


def _typed(values: Sequence[str]) -> np.ndarray:
    texts = [value.strip() for value in values]
    lower = [text.lower() for text in texts]
    for false, true in (("false", "true"), ("0", "1"), ("-1", "1")):
        if set(lower) <= {false, true}:
            return np.array([text == true for text in lower])
    if all(re.fullmatch(r"-?\d+", text) for text in texts):
        with contextlib.suppress(ValueError, OverflowError):  # thousands of digits, or more than 64 bits
            numbers = np.array([int(text) for text in texts], np.int64)
            if [str(number) for number in numbers.tolist()] == texts:  # else they are codes such as 00004
                return numbers
    elif not any("_" in text for text in texts):  # Python ignores it in a number
        with contextlib.suppress(ValueError):
            return np.array([np.float32(text) for text in texts], np.float32)
    return np.array(values, dtype=object)
