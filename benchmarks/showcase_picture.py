"""The picture at the head of the README: every person of a faces run, reconstructed, real, and the nearest public one.

    python fedinverse_sim.py faces
    python benchmarks/showcase_picture.py runs/faces docs/faces.png

For each of the victim's classes: the reconstruction that the attacker would keep, the victim's image of that person
nearest to it, and the nearest image among all that the attacker holds. Nobody chose: all classes, in their order.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from fedinverse.run import Run
from pipeline.cli.pictures import save_sheet
from pipeline.stages.gallery import nearest_images

KINDS = ("made", "train", "public")
PER_LINE = 4


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--attack", default="gmi")
    parser.add_argument("--round", type=int, required=True, help="of the inverted model")
    options = parser.parse_args()
    torch.set_num_threads(1)

    run = Run(options.run)
    (attacked,) = nearest_images(run, {options.attack: options.round})
    victims = [each for each in attacked if each.label in run.population.victim_classes]
    people = [torch.cat([_unit(each.images[kind]) for kind in KINDS], 2) for each in victims]
    gap = torch.ones(*people[0].shape[:2], 6)
    people = [torch.cat([person, gap], 2) for person in people]
    rows = [torch.stack(people[start : start + PER_LINE]) for start in range(0, len(people), PER_LINE)]
    save_sheet(options.picture, rows, zoom=1)
    nearer = sum(each.guarded for each in victims)
    print(f"{len(victims)} people; the victim's image is nearer than every public one for {nearer} of them")


def _unit(image: Tensor) -> Tensor:
    return image.float() / 255


if __name__ == "__main__":
    main()
