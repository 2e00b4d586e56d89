"""What a command line chooses: an attack, a schedule, public images, a device. All is checked before any work."""

from dataclasses import dataclass
from typing import Any

from attacker.attacks.attack import Attack
from attacker.attacks.registry import make_attack
from attacker.settings import Attacker
from attacker.target import PublicSet
from fedinverse.config import parse
from fedinverse.data import Request, open_source, source_names, source_of
from fedinverse.errors import ConfigError
from fedinverse.registry import nearest
from fedinverse.tables import Table, assigned, find_config, read_table
from pipeline.cli.pictures import shape_text


@dataclass(frozen=True)
class Chosen:
    """An attack by the label that names its directory."""

    label: str
    attack: Attack


def chosen_attack(kind: str | None, config: str | None, label: str | None, assignments: list[str]) -> Chosen:
    """Return the attack called ``kind`` with its defaults, or the one that a config describes as ``label``.

    Raises:
        ConfigError: neither or both are given, the config has no such attack, or a setting is wrong.
    """
    if (kind is None) == (config is None):
        raise ConfigError("say which attack: either --kind NAME (e.g. gmi) or --config FILE with --attack LABEL")
    if kind is not None:
        origin, name = "command line", label or kind
        table: dict[str, Any] = {"kind": kind}
    else:
        assert config is not None
        path = find_config(config)
        origin = str(path)
        name, table = _described(read_table(path), label, origin)
    return Chosen(name, make_attack(assigned(table, assignments), f"attacks.{name}", origin))


def _described(config: Table, label: str | None, origin: str) -> tuple[str, dict[str, Any]]:
    """Return label and table of the attack ``label`` of ``config``; of its only one when no label is given."""
    attacks = config.get("attacks", {})
    if not isinstance(attacks, dict) or not all(isinstance(table, dict) for table in attacks.values()):
        raise ConfigError(f"{origin}: attacks must be tables called attacks.LABEL")
    if label is None and len(attacks) != 1:
        known = ", ".join(attacks) or "none"
        raise ConfigError(f"{origin} describes {len(attacks)} attacks ({known}); choose one with --attack LABEL")
    name = label or next(iter(attacks))
    if name not in attacks:
        raise ConfigError(f"{origin}: there is no attack '{name}'{nearest(name, attacks, 'described there')}")
    return name, dict(attacks[name])


def chosen_schedule(rounds: str, classes: str, restarts: int, device: str) -> Attacker:
    """Return which rounds and classes are inverted; ``rounds`` is every, last or a list, ``classes`` a list or empty.

    Raises:
        ConfigError: a list is malformed, or the schedule needs images of the attacker's own.
    """
    if rounds == "new_best":
        raise ConfigError("--rounds new_best needs images of the attacker's own; use every, last or a list like 2,5")
    given = {
        "rounds": rounds if rounds in ("every", "last") else numbers(rounds, "--rounds"),
        "classes": numbers(classes, "--classes-to-invert") if classes else [],
        "restarts": restarts,
        "device": device,
    }
    return parse(Attacker, given, "attacker", "command line")


def numbers(text: str, option: str) -> list[int]:
    """Return ``"0,3,5-7"`` as [0, 3, 5, 6, 7], ascending and each once; ``ConfigError`` names ``option``."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
            raise ConfigError(f"{option} '{text}': '{part}' is no number and no range; write it like 0,3,5-9")
        chosen.update(range(int(first), int(last or first) + 1))
    return sorted(chosen)


def public_set(source: str, shape: tuple[int, int, int], root: str, limit: int, seed: int) -> PublicSet:
    """Return the attacker's public images, decoded to ``shape``.

    Raises:
        ConfigError: unknown source, or one whose images cannot take that shape.
        DataError: the data is absent; the message says how to obtain it.
    """
    check_channels(source, shape)
    return PublicSet.of(open_source(Request(source, shape, root, limit, seed)))


def check_channels(source: str, shape: tuple[int, int, int], where: str = "") -> None:
    """Refuse images of another number of channels than ``shape`` has, and name the sources that fit.

    A source of 0 channels holds what its files hold, and refuses them itself. ``where`` begins the message.
    """
    try:
        channels = source_of(source).channels
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    if channels not in (0, shape[0]):
        fitting = [name for name in source_names() if source_of(name).channels in (0, shape[0])]
        raise ConfigError(
            f"{where}source '{source}' has {channels} channel(s) but images {shape_text(shape)} are needed; "
            f"choose another one ({', '.join(fitting) or 'none fits'})"
        )
