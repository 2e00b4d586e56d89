"""From a weights file and folders of pictures to an ordinary run directory. Everything is checked before it is made."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from auditor.evaluators.embedding import SMALLEST_VAULT
from auditor.evaluators.material import check_independent
from auditor.settings import Audit
from fedinverse.config import Population
from fedinverse.data import Pool, Request, arrays, located, open_source, source_names
from fedinverse.errors import ConfigError, DataError, FedInverseError
from fedinverse.folders import absolute, spelling
from fedinverse.layout import WITH_VICTIM, RunFiles
from fedinverse.models.declared import Declaration
from fedinverse.overlap import check_disjoint
from fedinverse.private import part_of
from fedinverse.records import ModelFile, RoundLine, append_lines
from fedinverse.run import Run, gone_on_with, write_run
from fedinverse.split import first_lacking, manifest_of_model
from fedinverse.storage import file_sha256, save_weights, to_weights, weights_sha256
from fedinverse.tables import Table
from pipeline.cli.choice import check_channels
from pipeline.ownapp.images import on_canvas
from pipeline.ownapp.settings import canvas_for
from pipeline.ownmodel.settings import ModelAudit, Sections, attacks_of, audit_of, sections
from pipeline.ownmodel.weights import Loaded, load
from report.console import bars_when_told
from server.utility import utility

VICTIM, HOLDER = 0, 1  # partitions of the run: who has the private images, and who has the file


def prepare_model(said: ModelAudit, out: Path, *, resume: bool) -> Run:
    """Make the run directory, or find it as it was made.

    Raises:
        FedInverseError: names the option or key, what was found and what to write; nothing is left behind.
    """
    chosen = sections(said)
    model = with_canvas(said.model)
    loaded = load(said.file, model, said.width)
    files = RunFiles((out / said.run_name).resolve())
    table = _table(said, chosen, loaded)
    run = gone_on_with(files, table, "--name", "other options", resume=resume)
    if run is not None:
        return run
    fresh = not files.root.exists()
    try:
        return _written(files, said, chosen, table, loaded)
    except FedInverseError:
        if fresh:
            shutil.rmtree(files.root, ignore_errors=True)
        raise


def with_canvas(model: str) -> str:
    """Return the declaration ``model`` with the canvas on which evaluators and priors can look at its images."""
    if "?" not in model:
        return model
    said = Declaration.read(model)
    return (said if said.canvas else replace(said, canvas=canvas_for(said.shape))).name


def _written(files: RunFiles, said: ModelAudit, chosen: Sections, table: Table, loaded: Loaded) -> Run:
    private, public = (
        _opened(option, where, loaded, chosen, said.seed, limit)
        for option, where, limit in (
            ("--private", said.private, chosen.data.private_limit),
            ("--public", said.public, chosen.data.public_limit),
        )
    )
    names = private.class_names
    if len(names) != loaded.network.classes:
        raise ConfigError(
            f"--private {said.private} shows {len(names)} classes ({', '.join(names[:5])}, ...), but {said.file} is a "
            f"model of {loaded.network.classes}: its classes are the directories in the order of their names"
        )
    beyond = [label for label in chosen.attacker.classes if label >= len(names)]
    if beyond:
        raise ConfigError(f"class {beyond[0]} cannot be attacked: the model has the classes 0 to {len(names) - 1}")
    held = _opened("--held-out", said.held_out, loaded, chosen, said.seed, 0) if said.held_out else None
    images, labels, trained = _together(private, held, said)
    manifest = manifest_of_model(images, labels, trained, chosen.split, said.seed)
    _check_parts(manifest, names, said)
    population = Population(
        clients=2,
        victim=VICTIM,
        victim_classes=chosen.attacker.classes or tuple(range(len(names))),
        malicious_clients=(HOLDER,),
    )
    network = loaded.network
    canvas = network.input_shape
    root = arrays.save(files.root / "data", fitted(images, canvas), labels, list(names))
    wanted = {"private": Request("arrays", canvas, str(root)), "public": _public(files, public, canvas)}
    wanted = {name: located(request) for name, request in wanted.items()}
    private_pool, public_pool = (open_source(request) for request in wanted.values())
    with bars_when_told() as progress:
        check_disjoint(private_pool, public_pool, population, allow=chosen.data.allow_overlap, progress=progress)
    run = write_run(files, table | {"population": population.model_dump(mode="json")}, manifest, wanted)
    check_independent(run, run.section("audit", Audit).evaluator)
    _model_files(run, loaded)
    return run


def _model_files(run: Run, loaded: Loaded) -> None:
    """Write the file as the captured model, the untrained network beside it, and what the model can do."""
    network, number, about = loaded.network, loaded.round, run.about_model
    weights = to_weights(network)
    save_weights(
        run.files.attacker.spool(WITH_VICTIM) / f"round-{number:04d}.safetensors",
        weights,
        ModelFile.metadata(number, about),
    )
    untrained = run.initial_network()
    save_weights(run.files.server.checkpoint(WITH_VICTIM, 0), to_weights(untrained), ModelFile.metadata(0, about))
    scores = utility(network, part_of(run, "reserve"), run.population.victim_classes)
    rounds = run.files.server.rounds(WITH_VICTIM)
    append_lines(rounds, [RoundLine.of(number, scores, weights_sha256(weights))])


def _table(said: ModelAudit, chosen: Sections, loaded: Loaded) -> Table:
    """Return the configuration of the run, without its population, which the data decide."""
    audit = audit_of(chosen, loaded.model, loaded.network.input_shape)
    data: dict[str, Any] = chosen.data.model_dump(mode="json")
    return {
        "name": said.run_name,
        "seed": said.seed,
        "weights_file": {
            "file": str(said.file.resolve()),
            "sha256": file_sha256(said.file),
            "held_out": _place(said.held_out),
        },
        "data": data | {"private": _place(said.private), "public": _place(said.public)},
        "split": chosen.split.model_dump(mode="json"),
        "model": {"name": loaded.model, "width": loaded.width},
        "attacker": chosen.attacker.model_dump(mode="json"),
        "attacks": attacks_of(chosen),
        "audit": audit.model_dump(mode="json"),
    }


def _place(where: str) -> str:
    """Return a directory from the root of the file system; the name of a data source as it is."""
    return absolute(where) if where and Path(absolute(where)).is_dir() else where


def _opened(option: str, where: str, loaded: Loaded, chosen: Sections, seed: int, limit: int) -> Pool:
    """Return the images of a directory or data source, as large as the network takes them, or as the canvas is."""
    shape = loaded.takes
    if Path(absolute(where)).is_dir():
        return open_source(Request("imagefolder", shape, absolute(where), limit, seed, chosen.data.fit))
    if where not in source_names() and ":" not in where:
        raise ConfigError(
            f"{option} {where}: is no directory of pictures (one directory per class), and no data source "
            f"({', '.join(source_names())})"
        )
    check_channels(where, shape, f"{option} {where}: ")
    return open_source(Request(where, shape, "", limit, seed, chosen.data.fit))


def _public(files: RunFiles, public: Pool, canvas: tuple[int, int, int]) -> Request:
    """Return the request of the public images: of their source as it is, or of a copy on the canvas."""
    if public.images.shape[1:] == canvas:
        asked: dict[str, Any] = public.about["request"] | {"shape": canvas}
        return Request(**asked)
    root = arrays.save(files.root / "data", fitted(public.images, canvas), public.labels, list(public.class_names))
    return Request("arrays", canvas, str(root))


def fitted(images: NDArray[np.uint8], canvas: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return ``images`` [N, C, h, w] on a canvas of (C, H, W)."""
    if images.shape[1:] == canvas:
        return np.asarray(images)
    return on_canvas(torch.from_numpy(np.array(images)).float(), canvas[1:]).round().to(torch.uint8).numpy()


def _together(
    private: Pool, held: Pool | None, said: ModelAudit
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Return all images, their classes, and which the model was trained on."""
    count = len(private.labels)
    if held is None:
        return np.asarray(private.images), private.labels, np.ones(count, np.bool_)
    numbers = {spelling(name): number for number, name in enumerate(private.class_names)}
    unknown = [name for name in held.class_names if spelling(name) not in numbers]
    if unknown:
        raise ConfigError(f"--held-out {said.held_out}: --private has no class '{unknown[0]}'; name them alike")
    places = np.array([numbers[spelling(name)] for name in held.class_names], np.int64)
    return (
        np.concatenate([private.images, held.images]),
        np.concatenate([private.labels, places[held.labels]]),
        np.arange(count + len(held.labels)) < count,
    )


def _check_parts(manifest: pd.DataFrame, names: tuple[str, ...], said: ModelAudit) -> None:
    """Refuse a class that has no image of a part, and too few images to train the evaluator on."""
    where = f"--held-out {said.held_out}" if said.held_out else f"--private {said.private}"
    lacking = first_lacking(manifest, names)
    if lacking is not None:
        name, parts = lacking
        raise DataError(
            f"class '{name}' has too few different images: none for {' and '.join(parts)}. The auditor needs "
            f"some of every class that are not in the comparison: give more in {where}"
        )
    vault = int((manifest["part"] == "vault").sum())
    if vault < SMALLEST_VAULT:
        raise DataError(
            f"{where} leaves {vault} images to train the evaluator on; {SMALLEST_VAULT} are needed at least"
        )
