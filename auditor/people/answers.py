"""The answers of one judge, a person or a program, checked before anything is made of them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from auditor.people.sheet import VERSION, Key
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.storage import read_json, typed

Answer = Literal["yes", "no", "unsure"]
ANSWERS: tuple[Answer, ...] = ("yes", "no", "unsure")
LONGEST_NAME = 80


@dataclass(frozen=True)
class Given:
    """One answer."""

    item: str
    answer: Answer


@dataclass(frozen=True)
class Answers:
    """A file of answers.

    Attributes:
        version: of this format.
        sheet: which page they were given to.
        judge: who gave them; empty: nobody said.
        answers: to as many items as were reached, each once.
    """

    version: int
    sheet: str
    judge: str
    answers: tuple[Given, ...]

    def plain(self) -> dict[str, object]:
        """Return it as JSON holds it."""
        return asdict(self)


def read_answers(path: Path, key: Key) -> Answers:
    """Read one judge's answers to the sheet of ``key``.

    Raises:
        ConfigError: no such file, no file of answers, or answers to another page, to unknown items, twice to one item,
            or none at all; names the file and the item.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; give the file that the page downloads")
    try:
        given = typed(Answers, read_json(path), path)
    except IntegrityError as error:
        raise ConfigError(f"{error}; it is no file of answers that the page made") from error
    if given.version != VERSION:
        raise ConfigError(f"{path}: answers of format {given.version}; this program reads format {VERSION}")
    if given.sheet != key.sheet:
        raise ConfigError(
            f"{path}: answers to another page (sheet {given.sheet[:40]}); this run's is {key.sheet}, of {key.run}"
        )
    if len(given.judge) > LONGEST_NAME:
        raise ConfigError(f"{path}: 'judge' is longer than {LONGEST_NAME} characters")
    known, seen = {item.id for item in key.items}, set[str]()
    for each in given.answers:
        if each.item not in known:
            raise ConfigError(f"{path}: item '{each.item[:40]}' is not on this page")
        if each.item in seen:
            raise ConfigError(f"{path}: item '{each.item}' is answered twice")
        seen.add(each.item)
    if not given.answers:
        raise ConfigError(f"{path}: holds no answer")
    return given


def named(files: list[Path], key: Key) -> dict[str, Answers]:
    """Read several judges' files; return them by the judge's name, or the file's where nobody said.

    Raises:
        ConfigError: see ``read_answers``; or two files of one judge.
    """
    judges: dict[str, Answers] = {}
    for path in files:
        given = read_answers(path, key)
        name = given.judge.strip() or path.stem
        if name in judges:
            raise ConfigError(
                f"{path}: a second file of judge '{name}'; give each judge's file once, or give them different names"
            )
        judges[name] = given
    return judges
