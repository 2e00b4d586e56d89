"""Labelled Faces in the Wild (Huang et al. 2007): 13,233 pictures of 5,749 people, 250x250.

``lfw`` are 30 private people of the 62 with 20 pictures or more, ``lfw_public`` all others.
"""

from fedinverse.data.identities import private_people, register_people
from fedinverse.data.people_folders import album_of

PEOPLE = 30
AT_LEAST = 20
FOLDERS = ("lfw_funneled", "lfw-deepfunneled", "lfw", "lfw-py/lfw_funneled")
CROP = 108  # of 250: the face, as in CelebA
LICENCE = "no licence stated; research use (University of Massachusetts)"
OBTAIN = (
    "download lfw.tgz or lfw-funneled.tgz (or torchvision.datasets.LFWPeople(root, download=True)), unpack "
    "it, and set the root to the directory that holds one directory per person"
)


register_people(
    "lfw",
    OBTAIN,
    lambda request: album_of(request, FOLDERS, lambda _path, _width, _height: CROP, LICENCE),
    lambda album, request: private_people(album, request.seed, PEOPLE, AT_LEAST),
)
