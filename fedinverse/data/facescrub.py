"""FaceScrub (Ng and Winkler, ICIP 2014): cropped faces of 530 actors and actresses, one directory each.

``facescrub`` are 200 private people, ``facescrub_public`` all others.
"""

from fedinverse.data.identities import Album, private_images, private_people, public_images
from fedinverse.data.people_folders import album_of
from fedinverse.data.pictures import share
from fedinverse.data.source import Images, Request, register

PEOPLE = 200
AT_LEAST = 20
CROP = 54 / 64  # of the square face crop: what the attacks' papers keep of a 64-pixel FaceScrub image
LICENCE = "CC BY-NC-ND 4.0 for the list; the pictures belong to their owners, research use"
OBTAIN = (
    "request the list at https://vintage.winklerbros.net/facescrub.html, fetch and crop the faces, and set "
    "the root to the directory that holds one directory of face crops per person (also below actors/ and "
    "actresses/)"
)


@register("facescrub", 3, OBTAIN)
def load(request: Request) -> Images:
    """Return the private people; ``limit`` leaves out whole people."""
    album = _album(request)
    return private_images(album, private_people(album, request.seed, PEOPLE, AT_LEAST), request)


@register("facescrub_public", 3, OBTAIN)
def load_public(request: Request) -> Images:
    """Return pictures of the people that ``facescrub`` with the same seed does not hold."""
    album = _album(request)
    return public_images(album, private_people(album, request.seed, PEOPLE, AT_LEAST), request)


def _album(request: Request) -> Album:
    return album_of(request, ("facescrub",), share(CROP), LICENCE)
