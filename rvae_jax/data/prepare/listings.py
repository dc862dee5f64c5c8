"""The pictures that a preparation skips, and the duplicates: ``skipped.csv`` and ``duplicates.csv``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rvae_jax.data.prepare.shards import Report
from rvae_jax.data.prepare.sources.source import Source
from rvae_jax.errors import UserError, printable
from rvae_jax.system.files import write_atomically

Skipped = Sequence[Sequence[str]]  # name and reason of each


def most_skipped(report: Report) -> Skipped:
    """The skipped pictures of the size for which most are skipped."""
    return max(report["skipped"].values(), key=len)


def require_few_skipped(source: Source, skipped: Skipped, max_skipped: float, listing: Path) -> None:
    """Raises a UserError, and lists the pictures in ``listing``, if more than a share ``max_skipped`` are skipped."""
    if len(skipped) <= max_skipped * len(source.files):
        return
    write_skipped(listing, sorted(skipped))
    raise UserError(
        f"{source.title}: {len(skipped):,} of {len(source.files):,} pictures are unusable so far, more than"
        f" --max_skipped={max_skipped:g} of all: {frequent_reasons(skipped)}. They are listed in {listing}; repair or"
        " remove them, or raise --max_skipped, and give the same command again"
    )


def frequent_reasons(skipped: Skipped) -> str:
    """The most frequent reasons, each with an example."""
    by_kind: dict[str, list[Sequence[str]]] = {}
    for row in skipped:
        by_kind.setdefault(_kind_of_reason(row[1]), []).append(row)
    most = sorted(by_kind.values(), key=len, reverse=True)[:3]
    return ", ".join(f"{len(rows):,} such as {printable(rows[0][0])} ({rows[0][1]})" for rows in most)


def _kind_of_reason(reason: str) -> str:
    return re.sub(r"\d[\dx.]*", "N", re.split(r"[:;(]", reason, maxsplit=1)[0]).strip()


def duplicates_among(rows: Iterable[tuple[str, str, Any, str]]) -> list[list[str]]:
    """Finds images with the same pixels.

    Args:
      rows: split, name, anything, and a hash of the pixels of each image.

    Returns:
      For each image with the pixels of one before it in the order of names: name, split, and those of the first one.
    """
    first: dict[str, tuple[str, str]] = {}
    found = []
    for split, name, _, digest in sorted(rows, key=lambda row: row[1]):
        if digest in first:
            found.append([name, split, *first[digest]])
        else:
            first[digest] = (name, split)
    return found


def write_skipped(path: Path, skipped: Skipped) -> None:
    """Writes ``skipped.csv``."""
    _write_csv(path, ["name", "reason"], skipped)


def write_duplicates(path: Path, duplicates: Iterable[Iterable[str]]) -> None:
    """Writes ``duplicates.csv`` of what ``duplicates_among`` found."""
    _write_csv(path, ["name", "split", "same_as", "its_split"], duplicates)


def _cell(text: str) -> str:
    """A cell that a spreadsheet takes as text and a terminal prints: names of files come from strangers' archives."""
    safe = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda sign: sign[0].encode("unicode_escape").decode(), text)
    return f"'{safe}" if re.match(r"[=@]|[+-].*[=(!|]", safe) else safe


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *([_cell(value) for value in row] for row in rows)])
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
