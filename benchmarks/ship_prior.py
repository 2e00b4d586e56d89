"""Put a trained prior into the zoo that comes with the package, with what a user wants to know of it.

    fedinverse prior train --config faces --shape 3x64x64 --public synthfaces_public --public-limit 6000 \\
        --set prior.shipped=false                          # resumable: start it again after a kill
    python benchmarks/ship_prior.py synthfaces-64 KEY      # KEY as 'fedinverse prior list' shows it

Writes NAME.safetensors (half precision), NAME.png (a sheet of samples) and an entry in zoo.json beside them, and prints
the KID of its samples to public images of another seed, which it was not trained on, next to that of as many real ones;
once in single and once in half precision, since both must be the same to the eye. The embedding is the auditor's own
(whitened gradients and colours), fitted to those other images: the figure compares with others made in the same way.
"""

import argparse
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacker.priors.dcgan import LATENT, Generator
from attacker.priors.prior import prior_path
from attacker.priors.shipped import ZOO, Shipped, zoo
from attacker.priors.wgan_gp import WganGp
from auditor.evaluators.embedding import Embedding, fit_embedding
from auditor.metrics.fidelity import RealSet, kid
from fedinverse.data import Request, open_source
from fedinverse.data.source import unit
from fedinverse.models import for_inference
from fedinverse.seeds import generator
from fedinverse.storage import (
    content_sha256,
    file_sha256,
    load_weights,
    read_json,
    save_weights,
    weights_sha256,
    write_json,
)
from pipeline.cli.pictures import COLUMNS, save_sheet, shape_of

SAMPLES = 2000
ROWS = 4
HELD_OUT_SEED = 1_000_003  # of public images that no run draws by default


def main() -> None:
    """Convert, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the zoo's entry, such as glyphs-32")
    parser.add_argument("key", help="of the cached WGAN-GP, as 'fedinverse prior train' printed it")
    parser.add_argument("--licence", default="Apache-2.0")
    options = parser.parse_args()
    torch.set_num_threads(1)

    path = prior_path(WganGp.name, options.key)
    weights, metadata = load_weights(path)
    about = read_json(path.with_suffix(".json"))
    if about["settings"].get("precision", "fp32") != "fp32":
        parser.error("only priors that were trained in fp32 are shipped")
    settings = {key: value for key, value in about["settings"].items() if key not in ("shipped", "precision")}
    shape = shape_of(about["shape"])
    half = {name: _half(array) for name, array in weights.items()}

    source = about["public"].rpartition("-")[0]
    held_out = open_source(Request(source, shape, "", 2 * SAMPLES, HELD_OUT_SEED)).tensor()
    order = torch.randperm(len(held_out), generator=generator(0, "ship"))
    near, other = unit(held_out[order[:SAMPLES]]), unit(held_out[order[SAMPLES:]])
    embedding = fit_embedding(held_out)
    quality = {}
    for precision, arrays in (("single", weights), ("half", half)):
        images = _samples(arrays, shape, settings["width"])
        quality[precision] = _kid(embedding, images, near)
        print(f"KID of {SAMPLES} samples in {precision} precision: {1e6 * quality[precision]:.1f} millionths")
    print(f"KID of {SAMPLES} other public images: {1e6 * _kid(embedding, other, near):.1f} millionths")

    save_sheet(ZOO / f"{options.name}.png", images[: ROWS * COLUMNS].split(COLUMNS), zoom=1 if shape[1] > 32 else 2)
    kept = ZOO / f"{options.name}.safetensors"
    # Not the key it was trained under: with prior.shipped = false that one is trained anew.
    key = content_sha256({"shipped": options.name, "weights": weights_sha256(half)})
    save_weights(kept, half, {"key": key, "prior": WganGp.name, "seconds": metadata["seconds"]})
    entry = Shipped(
        name=options.name,
        prior=WganGp.name,
        version=WganGp.version,
        recipe=f"{source}/{about['images']}",
        shape=shape,
        settings=settings,
        seed=about["seed"],
        key=key,
        sha256=file_sha256(kept),
        licence=options.licence,
        kid=round(1e6 * quality["half"], 1),
        command=_command(about, source, settings),
    )
    others = [asdict(known) for known in zoo() if known.name != options.name]
    write_json(ZOO / "zoo.json", sorted([*others, json.loads(json.dumps(asdict(entry)))], key=lambda one: one["name"]))
    print(f"{kept}: {kept.stat().st_size / 2**20:.2f} MiB, SHA-256 {entry.sha256}")


def _half(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float16) if array.dtype == np.float32 else array


def _samples(arrays: dict[str, NDArray[Any]], shape: tuple[int, int, int], width: float) -> Tensor:
    network = Generator(shape, width)
    prefix = "generator."
    chosen = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    network.load_state_dict({name: torch.from_numpy(array) for name, array in chosen.items()})
    z = torch.randn(SAMPLES, LATENT, generator=generator(0, "prior", "samples"))
    with torch.inference_mode():
        return torch.cat([for_inference(network)(part) for part in z.split(256)])


def _kid(embedding: Embedding, images: Tensor, real: Tensor) -> float:
    value = kid(embedding(images), RealSet(embedding(real)))
    assert isinstance(value, float)
    return value


def _command(about: dict[str, Any], source: str, settings: dict[str, Any]) -> str:
    chosen = " ".join(f"--set prior.{name}={value}" for name, value in settings.items())
    return (
        f"fedinverse prior train --kind gmi --shape {about['shape']} --public {source} "
        f"--public-limit {about['images']} --seed {about['seed']} {chosen} --set prior.shipped=false"
    )


if __name__ == "__main__":
    main()
