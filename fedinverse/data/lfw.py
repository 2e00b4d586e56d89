"""Labelled Faces in the Wild (Huang et al. 2007): 13,233 pictures of 5,749 people, 250x250.

``lfw`` are 30 private people of the 62 with 20 pictures or more, ``lfw_public`` all others.
"""

from pathlib import Path

from fedinverse.data.identities import Album, private_images, private_people, public_images
from fedinverse.data.people_folders import album_of
from fedinverse.data.source import Images, Request, register

PEOPLE = 30
AT_LEAST = 20
CROP = 108  # of 250: the face, as in CelebA
LICENCE = "no licence stated; research use (University of Massachusetts)"
OBTAIN = (
    "download lfw.tgz or lfw-funneled.tgz (or torchvision.datasets.LFWPeople(root, download=True)), unpack "
    "it, and set the root to the directory that holds one directory per person"
)


@register("lfw", 3, OBTAIN)
def load(request: Request) -> Images:
    """Return the private people; ``limit`` leaves out whole people."""
    album = _album(request)
    return private_images(album, private_people(album, request.seed, PEOPLE, AT_LEAST), request)


@register("lfw_public", 3, OBTAIN)
def load_public(request: Request) -> Images:
    """Return pictures of the people that ``lfw`` with the same seed does not hold."""
    album = _album(request)
    return public_images(album, private_people(album, request.seed, PEOPLE, AT_LEAST), request)


def _album(request: Request) -> Album:
    return album_of(request, ("lfw_funneled", "lfw-deepfunneled", "lfw", "lfw-py/lfw_funneled"), _crop, LICENCE)


def _crop(_path: Path, _width: int, _height: int) -> int:
    return CROP
