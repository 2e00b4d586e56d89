"""What the clients of a federation really hold: a directory per client, or a manifest.

``ROOT/CLIENT/CLASS/picture``, or a root that is a CSV file with the columns ``file``, ``class`` and ``client``, its
files relative to it. Clients are numbered in the order of their names, classes too. ``population.partition =
"folders"`` takes the clients from here; every other scheme deals the pictures anew.
"""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np

from fedinverse.data.pictures import decode, listing_of, said, whole
from fedinverse.data.source import Images, Request, register, sample
from fedinverse.errors import DataError
from fedinverse.folders import readable

COLUMNS = ("file", "class", "client")
OBTAIN = (
    "set the root to a directory that holds one directory per client with one directory of pictures per class, or to a "
    f"CSV file with the columns {', '.join(COLUMNS)}"
)
Row = tuple[Path, str, str]  # file, class, client


@register("clientfolders", 3, OBTAIN)
def load(request: Request) -> Images:
    """Return the pictures of all clients, of each its largest centred square, and whose they are."""
    root = Path(request.root)
    if not request.root or not root.exists():
        where = f"'{root}' does not exist" if request.root else "no root is set"
        raise DataError(f"clientfolders: {where}; {OBTAIN}")
    rows, left_out = _manifest(root) if root.is_file() else _directories(root)
    if not rows:
        raise DataError(f"clientfolders: '{root}' names no picture; {OBTAIN}")
    chosen = sample(len(rows), request.limit, request.seed)
    classes, labels = np.unique([label for _, label, _ in rows], return_inverse=True)
    clients, holders = np.unique([client for _, _, client in rows], return_inverse=True)
    return Images(
        decode([rows[row][0] for row in chosen], request, whole),
        labels[chosen].astype(np.int64),
        tuple(map(str, classes)),
        "that of the pictures' owners",
        f"{root}, {len(rows)} pictures of {len(clients)} clients",
        left_out,
        holders[chosen].astype(np.int64),
        tuple(map(str, clients)),
    )


def _directories(root: Path) -> tuple[list[Row], tuple[str, ...]]:
    listing, rows = listing_of(root), []
    for path in listing.pictures:
        parts = path.relative_to(root).parts
        if len(parts) > 2:
            rows.append((path, readable(parts[1]), readable(parts[0])))
    loose = len(listing.pictures) - len(rows)
    beside = (f"{loose} pictures that lie in no client's directory of a class",) if loose else ()
    return rows, (*beside, *said(listing.others))


def _manifest(file: Path) -> tuple[list[Row], tuple[str, ...]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            header = table.fieldnames or ()
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                raise DataError(f"{file}: has no column '{missing[0]}', but {', '.join(header) or 'none'}; {OBTAIN}")
            entries = list(table)
            longer = next((number for number, row in enumerate(entries, 2) if None in row), None)
            if longer:
                raise DataError(f"{file}: entry {longer} has more cells than the first line; quote what holds a comma")
            lines_read = [[(row[column] or "").strip() for column in COLUMNS] for row in entries]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a readable CSV file ({error})") from error
    rows = [(_below(file, name), label, client) for name, label, client in filter(all, lines_read)]
    twice = [path for path, count in Counter(path for path, _, _ in rows).items() if count > 1]
    if twice:
        raise DataError(f"{file}: names {twice[0]} twice; a picture is one client's and of one class")
    short = len(lines_read) - len(rows)
    return rows, (f"{short} lines of {file.name} without {', '.join(COLUMNS)}",) if short else ()


def _below(file: Path, name: str) -> Path:
    """Return the path of the picture that ``file`` calls ``name``: beside it or below, where a change is noticed."""
    path = Path(os.path.normpath(file.parent / name))
    if "\0" in name or not path.is_relative_to(os.path.normpath(file.parent)):
        raise DataError(
            f"{file}: names {name!r}, which lies neither beside this file nor below; move this file above it"
        )
    return path
