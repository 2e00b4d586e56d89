"""Write synthfaces as CelebA is published: 178x218 JPEG files and an identity list, for trying its path."""

import io
from pathlib import Path

from fedinverse.data.celeba import ALIGNED, CROP
from fedinverse.data.synthfaces import VIEWS, photograph
from fedinverse.seeds import numpy_generator
from fedinverse.storage import atomic_write

_BATCH = 256  # pictures held in memory at once


def write_celeba_layout(root: Path, count: int, seed: int = 0) -> Path:
    """Write ``count`` synthfaces (30 of each person) under ``root``, people in random order as CelebA's are.

    The centre crop of 108 pixels is the frame of ``synthfaces``; hair, shoulders and background go on around
    it.

    Returns:
        The directory with ``img_align_celeba/`` and ``identity_CelebA.txt`` (written last).
    """
    from PIL import Image

    width, height = ALIGNED
    order = numpy_generator(seed, "celeba layout").permutation(count)
    for start in range(0, count, _BATCH):
        faces = photograph(order[start : start + _BATCH], "synthface", seed, height=height, width=width, pixel=2 / CROP)
        for number, face in enumerate(faces, start + 1):
            file = io.BytesIO()
            Image.fromarray(face.transpose(1, 2, 0)).save(file, "JPEG", quality=95)
            atomic_write(root / "img_align_celeba" / f"{number:06d}.jpg", file.getvalue())
    lines = (f"{number:06d}.jpg {row // VIEWS + 1}\n" for number, row in enumerate(order, 1))
    atomic_write(root / "identity_CelebA.txt", "".join(lines))
    return root
