"""FaceScrub (Ng and Winkler, ICIP 2014): cropped faces of 530 actors and actresses, one directory each.

``facescrub`` are 200 private people, ``facescrub_public`` all others.
"""

from fedinverse.data.identities import private_people, register_people
from fedinverse.data.people_folders import album_of
from fedinverse.data.pictures import share

PEOPLE = 200
AT_LEAST = 20
CROP = 54 / 64  # of the square face crop: what the attacks' papers keep of a 64-pixel FaceScrub image
LICENCE = "CC BY-NC-ND 4.0 for the list; the pictures belong to their owners, research use"
OBTAIN = (
    "request the list at https://vintage.winklerbros.net/facescrub.html, fetch and crop the faces, and set "
    "the root to the directory that holds one directory of face crops per person (also below actors/ and "
    "actresses/)"
)


register_people(
    "facescrub",
    OBTAIN,
    lambda request: album_of(request, ("facescrub",), share(CROP), LICENCE),
    lambda album, request: private_people(album, request.seed, PEOPLE, AT_LEAST),
)
