"""From ``audit.toml`` to an ordinary run directory: configuration, images, split manifest. Nothing is trained yet."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape

from attacker.attacks.registry import make_attack
from auditor.settings import Audit
from fedinverse.config import Population
from fedinverse.data import Request, arrays, located, open_source
from fedinverse.errors import ConfigError, DataError
from fedinverse.layout import RunFiles
from fedinverse.models import Classifier, build
from fedinverse.models.declared import DeclaredClassifier
from fedinverse.overlap import check_disjoint
from fedinverse.records import read_record, write_record
from fedinverse.run import Run, gone_on_with, write_run
from fedinverse.split import held_by
from fedinverse.tables import Table
from fedinverse.theirs import TheirError
from pipeline.cli.choice import check_channels
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.holdings import Holdings, read_holdings, read_public
from pipeline.ownapp.plan import ROWS, ClientRows
from pipeline.ownapp.settings import FILE, AppAudit, default_evaluator
from report.console import bars_when_told, console

LABEL = "attack"


@dataclass(frozen=True)
class Prepared:
    """An audit that can start: the app, its settings, and the run directory."""

    app: FlowerApp
    settings: AppAudit
    run: Run

    @property
    def rows(self) -> ClientRows:
        """What the data hook gives to whom."""
        return read_record(ClientRows, self.run.path / ROWS)

    @property
    def victim_goes(self) -> bool:
        """Whether the victim's node is hidden in the control world: asked for, or no image is left to it."""
        left = self.rows.without_victim.get(str(self.settings.victim), [])
        return self.settings.without == "client" or not left


def prepare_app(settings: AppAudit, origin: Path, out: Path | None, *, resume: bool) -> Prepared:
    """Check everything that can be checked before work, then make the run directory.

    Args:
        origin: the audit.toml; ``app`` is relative to its directory.

    Raises:
        FedInverseError: names the key of audit.toml, what was found and what to write.
    """
    app = FlowerApp.read(origin.parent / settings.app)
    app.on_path()
    network = _network(settings)
    for component in ("serverapp", "clientapp"):
        app.load(component)
    _check_public(settings)
    files = RunFiles(((out or Path(settings.out)) / settings.name).resolve())
    table = _table(settings, app, network)
    run = gone_on_with(files, table, f"name in {FILE}", f"another {FILE}", resume=resume)
    if run is not None:
        return Prepared(app, settings, run)
    holdings, labels = read_holdings(settings)
    _warn_of_single_images(holdings, labels, network)
    return Prepared(app, settings, _written(files, settings, table, holdings, labels))


def _written(
    files: RunFiles, settings: AppAudit, table: Table, holdings: Holdings, labels: dict[str, NDArray[np.int64]]
) -> Run:
    """Write the run directory."""
    population = Population(
        clients=settings.clients,
        victim=settings.victim,
        victim_classes=holdings.victim_classes,
        malicious_clients=(settings.attacker,),
    )
    shape = settings.declaration.images
    root = arrays.save(
        files.root / "data", holdings.images, holdings.manifest["label"].to_numpy(), list(holdings.class_names)
    )
    wanted = {"private": Request("arrays", shape, str(root)), "public": public_request(settings, files.root / "data")}
    wanted = {name: located(request) for name, request in wanted.items()}
    private, public = (open_source(request) for request in wanted.values())
    shares = population.shares_classes
    pictures = holdings.manifest.loc[held_by(holdings.manifest, settings.victim), "row"].to_numpy() if shares else None
    with bars_when_told() as progress:
        check_disjoint(private, public, population, pictures, allow=False, keys=("public", "data"), progress=progress)
    if shares:
        console.print(
            f"client {settings.victim} (victim) holds no class alone: their node is hidden in the control world, and "
            "the question is whether images are theirs or the class's"
        )
    by_classes = settings.without == "classes"
    rows = ClientRows(holdings.rows, holdings.without(settings, labels) if by_classes else holdings.rows)
    write_record(files.root / ROWS, rows)
    return write_run(files, table | {"population": population.model_dump(mode="json")}, holdings.manifest, wanted)


def _warn_of_single_images(
    holdings: Holdings, labels: dict[str, NDArray[np.int64]], network: DeclaredClassifier
) -> None:
    """Say which clients hold one image, if the network cannot train on one; the app may know what to do with it."""
    counts = {client: len(holdings.rows.get(client, held)) for client, held in labels.items()}
    single = [client for client, count in counts.items() if count == 1]
    if not single:
        return
    try:
        network.train().features(torch.rand(1, *network.input_shape))
    except (RuntimeError, ValueError) as error:
        console.print(
            f"[yellow]data gives client {', '.join(single[:5])} a single image, and {escape(network.declaration.call)} "
            f"cannot train on one[/yellow]: {escape(str(error))}; what the app does then is its own",
            soft_wrap=True,
        )
    finally:
        network.eval()


def _network(settings: AppAudit) -> DeclaredClassifier:
    """Return the network, built; what does not fit is refused by its key."""
    try:
        network = cast(DeclaredClassifier, build(settings.declaration.name, settings.class_count, seed=settings.seed))
    except TheirError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{FILE}: {error}") from None
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    if settings.state == "parameters" and (hidden := [name for name in network.state_dict() if name not in parameters]):
        raise ConfigError(
            f"{FILE}: state = 'parameters', but the network also has {', '.join(hidden[:4])}, which the app then never "
            "sends and without which it cannot be evaluated; send state_dict().values() and set state = 'list'"
        )
    return network


def names_of(settings: AppAudit, network: Classifier) -> tuple[str, ...]:
    """Return what the arrays of a bare list are called, in its order; empty: the app names its arrays."""
    if settings.state == "state_dict":
        return ()
    if settings.state == "list":
        return tuple(network.state_dict())
    tied: dict[int, list[str]] = {}  # parameters() gives a tied one once
    for name, parameter in network.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    return tuple("=".join(names) for names in tied.values())


def public_request(settings: AppAudit, root: Path) -> Request:
    """Return what is asked for the attacker's public images; what a function gives is written below ``root`` first."""
    shape = settings.declaration.images
    if ":" not in settings.public:
        return Request(settings.public, shape, settings.public_root, settings.public_limit, settings.seed)
    images, labels = read_public(settings)
    names = [f"public {label}" for label in range(int(labels.max()) + 1)]
    stored = arrays.save(root, images, labels, names)
    return Request("arrays", shape, str(stored), settings.public_limit, settings.seed)


def _check_public(settings: AppAudit) -> None:
    if ":" in settings.public:
        return
    check_channels(settings.public, settings.inputs.shape, f"{FILE}: public: ")
    try:
        open_source(located(public_request(settings, Path())))
    except DataError as error:
        raise DataError(
            f"{FILE}: public = '{settings.public}', public_root = '{settings.public_root}': {error}"
        ) from error


def _table(settings: AppAudit, app: FlowerApp, network: Classifier) -> Table:
    """Return the configuration of the run, without its population, which the data decide."""
    attack = make_attack(settings.attack, LABEL, FILE)
    elsewhere = {"out", "engine", "actors", "patience", "schedule", "audit", "attack"}
    said = settings.model_dump(mode="json", exclude=elsewhere)
    run_config = app.config | settings.run_config
    chosen = settings.audit or Audit(evaluator=default_evaluator(network.input_shape))
    return {
        "name": settings.name,
        "seed": settings.seed,
        "app": said | {"directory": str(app.directory), "name": app.name, "run_config": run_config},
        "data": {key: said[key] for key in ("public", "public_root", "public_limit")},
        "model": {"name": settings.declaration.name},
        "attacker": settings.schedule.model_dump(mode="json"),
        "attacks": {attack.name: attack.table},
        "audit": chosen.model_dump(mode="json"),
    }
