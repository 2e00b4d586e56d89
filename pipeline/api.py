"""For notebooks and scripts: ``from fedinverse import audit, audit_model, attack, capture``.

The functions are those of the command line, ``audit-app``, ``audit-model`` and ``attack``; what they make lies on disk
in the same form. Each result shows itself in Jupyter.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
import torch

from attacker.inversion import Inversion, invert, place
from attacker.reconstructions import Reconstructions
from attacker.schedule import captured
from attacker.settings import Attacker
from attacker.target import PublicSet
from auditor.table import read_scores
from auditor.verdict import read_verdict
from fedinverse.config import parse
from fedinverse.errors import StageError
from fedinverse.layout import WITH_VICTIM, spools_of
from fedinverse.machine import device_on
from fedinverse.records import ModelFile
from fedinverse.run import Run
from fedinverse.tables import flat
from pipeline.cli.choice import chosen_attack, public_set
from pipeline.cli.pictures import PICTURE, draw
from pipeline.cli.weights import labels_to_invert, network_of_all, targets, weights_at


def capture(app: str | Path, *, out: str | Path | None = None, resume: bool = False, **settings: Any) -> "Captured":
    """Run the federation of a Flower app with one malicious client; return the models that it kept.

    Args:
        app: directory of the app and its ``audit.toml`` (docs/audit-your-app.md), or that file.
        out: directory of run directories; None: the file's ``out``.
        resume: go on with a run directory that is there.
        settings: over the file's keys, e.g. ``engine="local"``, ``schedule={"restarts": 2}``.

    Raises:
        FedInverseError: one message that names the key of audit.toml, what was found and what to write.
    """
    from pipeline.ownapp.audit import opened
    from pipeline.ownapp.federate import federate_app

    with opened(Path(app), _assignments(settings), None if out is None else Path(out), resume=resume) as prepared:
        federate_app(prepared, WITH_VICTIM, lambda world, line: None)
        return Captured(prepared.run)


def attack(
    target: "Captured | str | Path",
    *,
    kind: str = "gmi",
    classes: int | None = None,
    model: str | None = None,
    public: str = "glyphs",
    public_root: str | Path = "",
    public_limit: int = 6000,
    labels: Sequence[int] = (),
    restarts: int = 10,
    rounds: str | Sequence[int] = "last",
    seed: int = 0,
    device: str = "cpu",
    out: str | Path = "inversions",
    **settings: Any,
) -> "Attacked":
    """Invert captured models, or one weights file; what is inverted already is read.

    Args:
        target: what ``capture`` returned, a directory of captures, a run directory, or a weights file.
        kind: the attack: ``gmi``, ``kedmi``, ...: see ``fedinverse names``.
        classes: number of classes of files that do not say it.
        model: their network; any ``torch.nn.Module`` is declared as
            ``"package.module:Net?shape=3,32,32&mean=0.5&std=0.5"``.
        public: data source of the attacker's public images; for a captured app those of its audit.toml.
        public_root: directory of that source, where it needs one.
        public_limit: use at most this many; 0: all.
        labels: classes to invert; empty: all.
        restarts: images per class.
        rounds: ``"last"``, ``"every"``, or a list.
        seed: every random number derives from it.
        device: ``cpu``, ``cuda``, ``cuda:1``.
        out: where inversions lie.
        settings: of the attack, e.g. ``iterations=300``, ``prior={"steps": 600}``.

    Raises:
        FedInverseError: says what is wrong and how to mend it.
    """
    chosen = chosen_attack(kind, None, None, _assignments(settings))
    asked = rounds if isinstance(rounds, str) else list(rounds)
    table = {"rounds": asked, "classes": list(labels), "restarts": restarts, "device": device}
    schedule = parse(Attacker, table, "attacker", "attack()")
    where = target.spool if isinstance(target, Captured) else Path(target)
    paths = weights_at(where, schedule)
    if isinstance(target, Captured):
        model = target.run.model.name  # the app's own, which its audit.toml names
    network = network_of_all(paths, model, None, classes)
    wanted = labels_to_invert(schedule, network)
    if isinstance(target, Captured):
        pool = target.run.pools["public"]
        images = PublicSet.of(pool)
    else:
        images = public_set(public, network.shape, str(public_root), public_limit, seed)
    done = []
    for _, victim in targets(paths, network, device_on(device, "--device")):
        lies = place(
            Path(out), chosen.label, chosen.attack, chosen.attack.table, victim.sha256, wanted, seed, images.key
        )
        if not lies.done:
            invert(chosen.attack, lies, victim, images, wanted, seed)
        draw(lies)
        done.append(lies)
    return Attacked(kind, tuple(done))


def audit(app: str | Path, *, out: str | Path | None = None, resume: bool = False, **settings: Any) -> "Audited":
    """Audit a Flower app: federation with and without the victim, inversion, verdict, report.

    Args:
        app: directory of the app and its ``audit.toml``, or that file; or a run directory that is audited already.
        out: directory of run directories; None: the file's.
        resume: go on with a run directory that is there, from what ``capture`` left too.
        settings: override keys of audit.toml, as for ``capture``.

    Raises:
        FedInverseError: one message that names the key of audit.toml, what was found and what to write.
    """
    from pipeline.ownapp.audit import audit_app

    if (Path(app) / "verdict.json").exists():
        return Audited(Run(Path(app).resolve()))
    where = audit_app(Path(app), _assignments(settings), None if out is None else Path(out), resume=resume)
    return Audited(Run(where))


def audit_model(
    file: str | Path,
    *,
    private: str | Path,
    public: str | Path,
    held_out: str | Path = "",
    model: str = "",
    kind: str = "gmi",
    classes: Sequence[int] = (),
    name: str = "",
    seed: int = 0,
    device: str = "cpu",
    out: str | Path = "runs",
    resume: bool = False,
    **settings: dict[str, Any],
) -> "Audited":
    """Audit one weights file with the private images at hand, without a federation.

    Args:
        file: safetensors, or what ``torch.save`` wrote.
        private: directory with one directory per class of the images it was trained on, or a data source.
        public: likewise, the images that an attacker has.
        held_out: likewise, images of the same classes that it was not trained on.
        model: its network, where the file does not say it.
        kind: the attack.
        classes: those to attack; empty: all.
        name: of the run directory; empty: the file's.
        seed: every random number derives from it.
        device: ``cpu``, ``cuda``, ``cuda:1``.
        out: directory of run directories.
        resume: go on with a run directory that is there.
        settings: by section, e.g. ``attack={"iterations": 600}, audit={"evaluator": {"epochs": 60}}``.

    Raises:
        FedInverseError: names the option or key, what was found and what to write.
    """
    from pipeline.ownmodel.audit import audit_model as audited
    from pipeline.ownmodel.settings import ModelAudit

    flattened = tuple(f"{key}={_inline(value)}" for key, value in flat(settings).items())
    said = ModelAudit(
        Path(file),
        str(private),
        str(public),
        str(held_out),
        model,
        None,
        kind,
        tuple(classes),
        name,
        seed,
        str(device_on(device, "--device")),
        flattened,
    )
    return Audited(Run(audited(said, Path(out), resume=resume)))


@dataclass(frozen=True)
class Captured:
    """The models that a malicious client kept."""

    run: Run

    @property
    def spool(self) -> Path:
        """The directory of captures."""
        return self.run.files.attacker.spool(WITH_VICTIM)

    @property
    def models(self) -> dict[int, Path]:
        """The captured weights by the round after which the server had them."""
        return captured(*spools_of(self.run.files.attacker, WITH_VICTIM))

    @property
    def table(self) -> pd.DataFrame:
        """One row per captured model: round, its accuracy, the victim's classes', its hash."""
        lines = {line.round: line.figures for line in self.run.recorded_rounds(WITH_VICTIM)}
        rows = [
            {
                "round": number,
                "accuracy": lines.get(number, {}).get("accuracy"),
                "victim's classes": lines.get(number, {}).get("victim-accuracy"),
                "sha256": ModelFile.read(path).sha256[:12],
            }
            for number, path in self.models.items()
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        attacker = ", ".join(map(str, self.run.population.attackers))
        return _page(f"Client {attacker} kept {len(self.models)} models of '{self.run.path.name}'", self.table, [])


@dataclass(frozen=True)
class Attacked:
    """Inversions of one attack, one per model, and where they lie."""

    kind: str
    inversions: tuple[Inversion, ...]

    @cached_property
    def reconstructions(self) -> Reconstructions:
        """Those of the last model: images [N, C, H, W] in [0, 1], labels [N], confidence [N], ..."""
        return self.inversions[-1].load()

    @property
    def table(self) -> pd.DataFrame:
        """One row per class of the last model: the target's own mean confidence, in [0, 1], and failed images."""
        reconstructions = self.reconstructions
        rows = [
            {
                "class": label,
                "images": int((reconstructions.labels == label).sum()),
                "confidence": float(reconstructions.confidence[reconstructions.labels == label].nan_to_num(0.0).mean()),
                "failed": int(reconstructions.failed[reconstructions.labels == label].sum()),
            }
            for label in torch.unique(reconstructions.labels).tolist()
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        last = self.inversions[-1]
        title = f"{self.kind} on round {last.about.model_round}; confidence is the target's own, no proof of leakage"
        return _page(title, self.table, [last.path / PICTURE])


@dataclass(frozen=True)
class Audited:
    """A finished audit."""

    run: Run

    @cached_property
    def verdict(self) -> dict[str, Any]:
        """What ``verdict.json`` says: outcome, sentence, reasons, figures."""
        return read_verdict(self.run.files.verdict).model_dump(mode="json")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Every figure of every arm, one row each (``audit/scores.parquet``)."""
        if not self.run.files.auditor.scores.exists():
            raise StageError(f"{self.run.path} holds no scores; run fedinverse audit {self.run.path}")
        return read_scores(self.run.files.auditor.scores)

    @property
    def report(self) -> Path:
        """The page."""
        return self.run.files.report

    @property
    def table(self) -> pd.DataFrame:
        """The verdict's metric over the victim's classes: one row per attack and round, one column per arm."""
        chosen = self.scores[
            self.scores["label"].isin(self.run.victim_classes)
            & (self.scores["metric"] == self.verdict["primary"]["metric"])
        ]
        table: pd.DataFrame = chosen.pivot_table(index=["attack", "round"], columns="arm", values="value").reset_index()
        return table

    def _repr_html_(self) -> str:
        primary = self.verdict["primary"]
        grid = self.run.files.auditor.grid(primary["attack"], "A", primary["round"])
        return _page(str(self.verdict["sentence"]), self.table, [grid] if grid.exists() else [])


def _assignments(settings: dict[str, Any]) -> list[str]:
    """Return keyword settings as ``key=value`` in TOML, tables inline."""
    return [f"{key}={_inline(value)}" for key, value in settings.items()]


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()


def _page(title: str, table: pd.DataFrame, pictures: list[Path]) -> str:
    """Return a title, a table and pictures as HTML that needs nothing else."""
    images = [
        f'<img alt="reconstructions" style="max-width:100%" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        for path in pictures
    ]
    body = table.to_html(index=False, border=0, float_format=lambda value: f"{value:.2f}", na_rep="–")
    return "\n".join([f"<p><b>{html.escape(title)}</b></p>", body, *images])
