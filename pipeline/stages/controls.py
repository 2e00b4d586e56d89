"""Stage 2: make the models that the attack on the captured ones is held against, and write down which is which.

The captured models that the schedule asks for (arm A), the untrained model (B1), the models of the same rounds in every
world without the victim (B2), a model that the attacker could have trained alone on its own shard (B3), and for the
Type-I test (T1) the primary round's captured model once more.
``targets.json`` says of every one of them its arm, world and round (``auditor.targets``); later stages read that.
"""

from collections.abc import Iterator
from pathlib import Path

from attacker.schedule import due
from attacker.settings import Attacker
from auditor.settings import Audit
from auditor.targets import ArmTarget, LeftOut, Targets
from clients.defences import make_defence
from clients.settings import Training
from clients.training import TrainingDivergedError, train
from fedinverse.client_data import pooled_shard
from fedinverse.layout import WITH_VICTIM, World, spools_of
from fedinverse.records import ModelFile
from fedinverse.rounds import kept_checkpoint
from fedinverse.run import Run
from fedinverse.seeds import generator, threads
from fedinverse.shard import Shard
from fedinverse.storage import content_sha256, save_weights, to_weights, weights_sha256
from pipeline.ownapp.plan import their_own_shard_model
from server.settings import Federation

VERSION = 1  # of the own-shard model; raise it when its training changes


def controls(run: Run) -> Targets:
    """Make every control target that is not there yet, write ``targets.json`` and return what it says.

    Raises:
        StageError: nothing was captured, a round that the schedule names was not, or a model was not kept.
    """
    shard = pooled_shard(run)
    spool, *others = spools_of(run.files.attacker, WITH_VICTIM)
    captures = due(spool, run.section("attacker", Attacker), shard, pooled=others)
    models = [_target(run, "A", WITH_VICTIM, number, path) for number, path in captures.items()]
    models.append(_target(run, "B1", WITH_VICTIM, 0, kept_checkpoint(run, WITH_VICTIM, 0)))
    for world in run.control_worlds:
        models += [_target(run, "B2", world, number, kept_checkpoint(run, world, number)) for number in captures]
    alone = own_shard_model(run, shard)
    left_out = list(_left_out(run, alone))
    if isinstance(alone, Path):
        models.append(_target(run, "B3", WITH_VICTIM, ModelFile.read(alone).round, alone))
    if run.section("audit", Audit).unaided_steps:
        primary = run.section("audit", Audit).primary.round
        number = primary if primary in captures else max(captures)
        models.append(_target(run, "T1", WITH_VICTIM, number, captures[number]))
    targets = Targets(tuple(models), tuple(left_out))
    targets.write(run)
    return targets


def _target(run: Run, arm: str, world: World, server_round: int, path: Path) -> ArmTarget:
    weights = path.relative_to(run.path).as_posix()
    return ArmTarget(arm, world, server_round, weights, ModelFile.read(path).sha256)


def _left_out(run: Run, alone: Path | str) -> Iterator[LeftOut]:
    if not run.control_worlds:
        alone_there = "there is one weights file, and no model that was trained without the victim"
        of_run = "no federation without the victim was run (audit.without_victim)"
        yield LeftOut("B2", alone_there if "weights_file" in run.table else of_run)
    if isinstance(alone, str):
        yield LeftOut("B3", alone)


def own_shard_model(run: Run, shard: Shard) -> Path | str:
    """Return the file of the model trained on ``shard`` alone, for as many epochs as the federation; or why it cannot.

    It starts from the federation's own initial weights. The file is named by everything it depends on, so that what
    stands there is never another configuration's.
    """
    if "app" in run.table:
        return their_own_shard_model(run)
    if "weights_file" in run.table:
        return "whoever has the weights file is assumed to have no image of the private kind"
    training, rounds = run.section("training", Training), run.section("federation", Federation).rounds
    network = run.initial_network()
    held = weights_sha256({"images": shard.images.contiguous().numpy(), "labels": shard.labels.numpy()})
    start = weights_sha256(to_weights(network))
    key = content_sha256([VERSION, training.model_dump(mode="json"), rounds, run.seed, held, start])
    path = run.files.auditor.own_shard_model(key[:16])
    if path.exists():
        return path
    if len(shard) < 2:
        return f"the attacker's own shard has {len(shard)} images, too few to train a model on"
    device = run.section("audit", Audit).device
    network.to(device)
    alone = make_defence("none", {}, "own shard")
    try:
        with threads(1):  # as the engines' clients; another number adds in another order
            for number in range(rounds):
                train(network, shard, training, alone, generator(run.seed, "own shard", number), device)
    except (TrainingDivergedError, ValueError) as error:  # BatchNorm refuses a batch of one image with a ValueError
        return f"no model can be trained on the attacker's own shard of {len(shard)} images ({error})"
    save_weights(path, to_weights(network), ModelFile.metadata(rounds, run.about_model))
    return path
