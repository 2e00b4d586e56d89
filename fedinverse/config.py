"""Tables into frozen, strict, typed sections, with errors that name file, key and fix.

Each role owns its section of the file (``federation`` is the server's, ``training`` the clients', ``attacks`` the
attacker's, ``audit`` the auditor's); the sections every role needs are here. ``parse`` turns one table into one
section and is the only place where pydantic's messages become ours.
"""

import difflib
import json
import re
import unicodedata
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedinverse.class_lists import Classes
from fedinverse.errors import ConfigError
from fedinverse.folders import absolute
from fedinverse.words import TEXT, plain


class Section(BaseModel):
    """A strict, frozen part of the configuration: unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)


def _possible(path: str) -> str:
    """Return ``path``; one that no file system can have is refused."""
    if "\0" in path or any("\ud800" <= character < "\udc80" for character in path):
        raise ValueError("holds a character that no path can have")
    return path


PlaceText = Annotated[str, AfterValidator(_possible)]
"""A path as the user typed it."""
PathText = Annotated[str, AfterValidator(_possible), AfterValidator(absolute)]
"""A path as the user typed it, made absolute where the configuration is read: a run may go on in another directory."""


class Data(Section):
    """Where the private images and the attacker's public images come from."""

    private: str = Field("mnist", description="source of the clients' images")
    private_root: PathText = Field("", description="directory that holds it; empty: the offline default")
    private_limit: int = Field(0, ge=0, description="use at most this many private images; 0: all")
    public: str = Field("glyphs", description="source of the attacker's public images")
    public_root: PathText = Field("", description="directory that holds it; empty: the offline default")
    public_limit: int = Field(6000, ge=0, description="use (or draw) this many public images; 0: all")
    fit: Literal["border", "stretch"] = Field(
        "border",
        description="how 28x28 images fill a larger model: with a black border, or stretched as the papers' code does",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="draws which images are used and what is at clients, in the vault and in reserve; left out: the "
        "run's seed. Runs of several seeds that share it share images and evaluators",
    )
    allow_overlap: bool = Field(False, description="let public and victim classes overlap; every output is then marked")

    def drawn_by(self, seed: int) -> int:
        """Return what draws the images and their parts in a run of ``seed``."""
        return seed if self.seed is None else self.seed


class Split(Section):
    """How the images of every class are divided: at the clients, in the evaluator's vault, in reserve."""

    train: float = Field(0.5, gt=0, lt=1, description="share held by clients")
    vault: float = Field(0.3, gt=0, lt=1, description="share the evaluators train on; at no client")
    reserve: float = Field(0.2, gt=0, lt=1, description="share in no training set: utility, thresholds, ceiling")

    @model_validator(mode="after")
    def _adds_up(self) -> "Split":
        if abs(self.train + self.vault + self.reserve - 1) > 1e-9:
            raise ValueError(f"train + vault + reserve is {self.train + self.vault + self.reserve:g}; make it 1")
        return self


class Population(Section):
    """Who takes part and who holds what."""

    clients: int = Field(20, ge=2, le=1_000_000, description="number of clients")
    victim: int = Field(0, ge=0, description="the client whose images are asked about; they alone hold victim_classes")
    victim_classes: Classes = Field(
        (0, 1, 2, 3, 4),
        description='classes only the victim holds, as numbers, ranges "0-299" or names; '
        "empty: they share all classes with others, and the question is whether the images are theirs or the class's",
    )
    victim_names: tuple[str, ...] = Field(
        (), description="classes of the victim by name; names in victim_classes are moved here"
    )
    malicious: int = Field(1, ge=0, description="how many clients capture and attack: the last ones")
    malicious_clients: tuple[int, ...] = Field((), description="or these partition ids; empty: the last ones")
    partition: Literal["iid", "dirichlet", "shards", "unequal", "pathological", "identity", "folders"] = Field(
        "iid", description="how the other classes are spread over all clients; folders: as the private source says"
    )
    alpha: float = Field(0.5, gt=0, description="dirichlet: concentration; small is uneven")
    classes_per_client: int = Field(2, ge=1, description="shards, pathological: classes a client holds")
    overlap: float = Field(0.0, ge=0, lt=1, description="share of every other client's images that a client holds too")

    @property
    def has_victim(self) -> bool:
        """Whether any class is one client's alone."""
        return bool(self.victim_classes or self.victim_names)

    @property
    def shares_classes(self) -> bool:
        """Whether somebody attacks a victim who has no class of their own: what is asked is whose images are shown."""
        return bool(self.attackers) and not self.has_victim

    @property
    def attackers(self) -> tuple[int, ...]:
        """Partition ids of the malicious clients."""
        if self.malicious_clients:
            return self.malicious_clients
        return tuple(range(self.clients - self.malicious, self.clients))

    def role_of(self, client: int) -> Literal["victim", "attacker", "honest"]:
        """Return what ``client`` is in the threat model."""
        if client in self.attackers:
            return "attacker"
        return "victim" if client == self.victim and (self.has_victim or self.attackers) else "honest"

    @model_validator(mode="after")
    def _possible(self) -> "Population":
        if self.victim >= self.clients:
            raise ValueError(f"victim is {self.victim} but clients run from 0 to {self.clients - 1}; lower victim")
        if self.malicious >= self.clients:
            raise ValueError(
                f"malicious is {self.malicious} of {self.clients} clients; at least the victim must be honest: "
                f"set it to {self.clients - 1} or less"
            )
        if len(set(self.malicious_clients) & set(range(self.clients))) != len(self.malicious_clients):
            raise ValueError(f"malicious_clients must name each client once, from 0 to {self.clients - 1}")
        if self.victim in self.attackers:
            raise ValueError(
                f"victim {self.victim} is one of the malicious clients {list(self.attackers)}; choose a lower one"
            )
        if len(set(self.victim_classes)) != len(self.victim_classes):
            raise ValueError("victim_classes must name each class once")
        return self


class Model(Section):
    """The global model."""

    name: str = Field("mcnn", description="network: see 'fedinverse names'; torchvision:NAME; or package.module:Name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies every hidden width; 1 is the published size")
    weights: PathText = Field(
        "", description="safetensors file to start from, made by 'fedinverse convert'; empty: drawn"
    )


def is_file_name(name: str) -> bool:
    """Return whether ``name`` may become a file or a directory: it cannot leave its place nor pass for another name."""
    return bool(re.fullmatch(r"\w[\w.-]{0,99}", name)) and len(name.encode()) <= 150 and _composed(name) == name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def _file_name(name: str) -> str:
    if is_file_name(name):
        return name
    if is_file_name(_composed(name)):
        raise ValueError(f"looks like '{_composed(name)}' and is another name, in other characters; write that one")
    raise ValueError(
        "a name that becomes a file has 1 to 100 letters, digits, '.', '-' and '_', the first no '.' and no '-', and "
        "at most 150 bytes"
    )


FileName = Annotated[str, AfterValidator(_file_name)]

S = TypeVar("S", bound=BaseModel)


def parse(section: type[S], table: Any, where: str, origin: str) -> S:
    """Turn ``table`` into ``section``.

    Args:
        table: what the file holds there.
        where: dotted path of the table in the file, for messages; empty at the top.
        origin: the file, for messages.

    Raises:
        ConfigError: one line per problem, each naming file, key and fix.
    """
    try:
        # Through JSON, so that strict mode takes TOML's arrays for tuples and nothing else for anything else.
        return section.model_validate_json(json.dumps(table, default=_refused))
    except ValidationError as error:
        lines = [_explain(section, problem, where, origin) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    except (TypeError, RecursionError) as error:
        place = f"{origin}: [{where}]" if where else origin
        raise ConfigError(f"{place} holds what no setting is: {error}") from error


def _refused(value: object) -> None:
    """Refuse what TOML has and JSON has not."""
    raise TypeError(f"{value} is a date or a time; put it into quotes if a text is meant")


def _explain(section: type[BaseModel], problem: Any, where: str, origin: str) -> str:
    location = [plain(part) for part in problem["loc"]]
    key = ".".join([*filter(None, [where]), *location])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = _fields_at(section, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        elsewhere = "" if near else " and ".join(_places_of(section, location[-1]))
        fix = f"known here: {', '.join(sorted(known))}"
        fix = f"did you mean '{near[0]}'?" if near else f"there is {elsewhere}; {fix}" if elsewhere else fix
        return f"{origin}: unknown key '{key}'; {fix}"
    if problem["type"] == "missing":
        return f"{origin}: key '{key}' is required"
    value = problem["input"]
    text = json.dumps(value) if isinstance(value, str | int | float | bool | list) else ""
    got = f" (got {text[:TEXT]}{'…' if len(text) > TEXT else ''})" if text else ""
    return f"{origin}: '{key}': {message}{got}" if key else f"{origin}: {message}"


def _fields_at(section: type[BaseModel], location: list[str]) -> list[str]:
    current: Any = section
    for part in location:
        fields = getattr(_section_in(current), "model_fields", {})
        current = fields[part].annotation if part in fields else current if part.isdigit() else None
    return list(getattr(_section_in(current), "model_fields", {}))


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds: itself, in a list, or where it may be absent."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for each in get_args(annotation) if (inner := _section_in(each))), None)


def _places_of(section: type[BaseModel], key: str) -> list[str]:
    """Return where ``key`` is known: at the top or in one of the tables."""
    places = [name for name in section.model_fields if name == key]
    tables = {name: _section_in(field.annotation) for name, field in section.model_fields.items()}
    return places + [f"{name}.{key}" for name, table in tables.items() if table and key in table.model_fields]
