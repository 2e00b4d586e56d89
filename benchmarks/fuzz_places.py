"""Mutated surroundings for ``benchmarks/fuzz.py``: picture files, data folders, class names, paths, environments."""

import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fuzz_configs import mutated_bytes
from PIL import Image
from rich.console import Console

from fedinverse.data import Request, open_source
from fedinverse.errors import FedInverseError
from fedinverse.folders import fingerprint
from fedinverse.overlap import shared_names

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "I;16", "F")
SUFFIXES = (".png", ".jpg", ".JPEG", ".gif", ".tif", ".webp", ".pgm", ".txt", "", ".png.png", ".jfif")
NAMES = (
    "anna", "Anna ", "..", "a/b", "", ".hidden", "\n", "a\tb", "[bold]x[/bold]", "<script>", "\x1b[31mred",
    "\u202egnirts", "name" * 60, "é", "e\u0301", "名前", "\udcff", "0", "-1", "CON", "a'b\"c", "%s", "{0}", " ",
)  # fmt: skip
SHAPE = (3, 32, 32)


def picture(chance: random.Random) -> bytes:
    """Return a picture of any format and mode, as often damaged as not."""
    side = chance.choice((1, 2, 31, 32, 33, 70))
    pixels = np.frombuffer(chance.randbytes(side * side * 3), np.uint8).reshape(side, side, 3)
    picture = Image.fromarray(pixels)
    mode, kind = chance.choice(MODES), chance.choice(FORMATS)
    file = io.BytesIO()
    try:
        deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 256)
        (deep if mode == "I;16" else picture.convert(mode)).save(file, kind)
    except (OSError, ValueError, KeyError):  # not every format holds every mode
        file = io.BytesIO()
        picture.save(file, "PNG")
    raw = file.getvalue()
    return raw if chance.random() < 0.5 else mutated_bytes(raw, chance)


def folder(root: Path, chance: random.Random) -> None:
    """Write a folder of class folders as nobody should have one."""
    for _ in range(chance.randint(0, 4)):
        name = chance.choice(NAMES)
        try:
            place = root / name
            place.mkdir(parents=True, exist_ok=True)
            if not place.resolve().is_relative_to(root.resolve()):
                continue
            for number in range(chance.randint(0, 3)):
                (place / f"{number}{chance.choice(SUFFIXES)}").write_bytes(picture(chance))
            _oddity(place, chance)
        except (OSError, ValueError):  # the file system refuses the name: nobody can have it
            continue


def _oddity(place: Path, chance: random.Random) -> None:
    """Add something that is no picture: a pipe, a link to nowhere or back, a folder called like a picture."""
    kind = chance.randrange(8)
    if kind == 0:
        os.mkfifo(place / "pipe.png")
    elif kind == 1:
        (place / "gone.png").symlink_to(place / "nowhere.png")
    elif kind == 2:
        (place / "loop").symlink_to(place)
    elif kind == 3:
        (place / "folder.png").mkdir()
    elif kind == 4:
        (place / "empty.png").write_bytes(b"")


def check_pictures(scratch: Path, number: int, seed: int) -> str:
    """Read a mutated folder as private images are read; return ``refused`` or ``accepted``."""
    chance = random.Random(f"pictures {seed} {number}")
    root = scratch / f"folder-{number}"
    root.mkdir()
    try:
        folder(root, chance)
        fingerprint(root)
        source = chance.choice(("imagefolder", "clientfolders"))
        pool = open_source(Request(source, SHAPE, str(root), chance.choice((0, 1, 2))))
    except FedInverseError:
        return "refused"
    finally:
        shutil.rmtree(root, ignore_errors=True)
    assert pool.images.shape[1:] == SHAPE
    assert len(pool.labels) == len(pool.images)
    assert set(pool.labels.tolist()) <= set(range(len(pool.class_names)))
    shared_names(pool.class_names, pool.class_names)
    _printed(pool.class_names, chance)
    shutil.rmtree(pool.path)
    return "accepted"


def _printed(names: tuple[str, ...], chance: random.Random) -> None:
    """Print names as reports do, on a console of any width and encoding: they must fit, and command nothing."""
    from report import console as shown

    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, chance.choice(("utf-8", "ascii", "latin-1")), errors="replace", newline="\n")
    before, shown.console = shown.console, Console(file=file, width=chance.choice((1, 20, 40, 80, 300)))
    try:
        shown.table("classes", ["name", "images", "share"], [[name, "12", "3 %"] for name in names])
        file.flush()
    finally:
        shown.console = before
    assert b"\x1b" not in raw.getvalue()


SETTINGS: dict[str, tuple[str | None, ...]] = {
    "HOME": (None, "", "/", "/nowhere", "relative", "/dev/null", "~", "x" * 300),
    "TMPDIR": (None, "", "/nowhere", "/" + "d" * 120, "relative", "/dev/null"),
    "COLUMNS": (None, "0", "1", "40", "-5", "many", "1e9", "99999"),
    "LC_ALL": (None, "C", "POSIX", "de_DE.UTF-8", "no_SUCH", ""),
    "FEDINVERSE_CACHE": ("HERE", "", "/dev/null/x", "/proc/none", "x" * 300, "\n"),
    "NO_COLOR": (None, "1"),
    "TERM": (None, "", "dumb", "xterm", "nonsense"),
}


@contextmanager
def environment(chance: random.Random, here: Path) -> Iterator[dict[str, str]]:
    """Set a mutated environment for the time of a block."""
    before = dict(os.environ)
    for key, values in SETTINGS.items():
        value = chance.choice(values)
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = str(here) if value == "HERE" else value
    try:
        yield dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)


def check_environment(scratch: Path, number: int, seed: int) -> str:
    """Run a command that reads no data set in a mutated environment; return ``refused`` or ``accepted``."""
    from typer.testing import CliRunner

    from pipeline.cli.main import app

    chance = random.Random(f"environment {seed} {number}")
    words = chance.choice((
        ["names"], ["--help"], ["run", "--help"], ["data", "list"], ["prior", "list"], ["runs", "list", str(scratch)],
        ["run", "--dry-run", "--out", str(scratch / chance.choice(("a", "x" * 300, "a\nb"))), "--set", "seed=x"],
        ["data", "check", "glyphs", "--root", chance.choice(("", "~", "~nobody", "x" * 5000, "/dev/zero"))],
    ))  # fmt: skip
    with environment(chance, scratch / "own-cache"):
        result = CliRunner().invoke(app, words)
    if isinstance(result.exception, FedInverseError | OSError):  # both end in one message and exit code 2
        return "refused"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return "accepted" if result.exit_code == 0 else "refused"


CHECKS: dict[str, Callable[[Path, int, int], str]] = {"pictures": check_pictures, "environment": check_environment}
