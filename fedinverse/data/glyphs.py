"""Glyphs: letters (no digit) rendered from the fonts that matplotlib ships, each deformed at random.

The public set of an attacker who never saw handwriting. Every image is one of 52 letters in one of 17 fonts, with
random stroke weight, shear, rotation, scale and a smooth elastic warp, sized and centred by mass as MNIST digits are.

``glyphs_unlike_digits`` leaves out the letters that a digit looks like, such as O, l and Z: what an attacker recovers
with them was not among its images to begin with.
"""

import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedinverse.data.source import Images, Request, register
from fedinverse.errors import ConfigError
from fedinverse.seeds import generator

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmb10", "cmti10", "cmss10", "cmtt10", "cmmi10",
)  # fmt: skip
LETTERS = string.ascii_uppercase + string.ascii_lowercase
LOOK_ALIKES = frozenset("ODQCocIJTftijlZzSsGbgqBAYyHWw")  # of 0, 1, 2, 5, 6, 8, 9, 4
DEFAULT_COUNT = 6000
_CANVAS = 64  # letters are drawn on this many pixels and sampled down while they are warped
_BOX = 20 / 28  # MNIST's digits fill a 20-pixel box of 28


@register("glyphs", 1, "always there: drawn from matplotlib's fonts")
def load(request: Request) -> Images:
    """Draw ``limit`` glyphs (default 6,000), letters in equal numbers."""
    return _drawn(request, LETTERS)


@register("glyphs_unlike_digits", 1, "always there: drawn from matplotlib's fonts; the letters that look like no digit")
def load_unlike_digits(request: Request) -> Images:
    """Draw ``limit`` glyphs (default 6,000) of the letters that look like no digit, in equal numbers."""
    return _drawn(request, "".join(letter for letter in LETTERS if letter not in LOOK_ALIKES))


def _drawn(request: Request, letters: str) -> Images:
    channels, height, width = request.shape
    if channels != 1 or height != width:
        raise ConfigError(f"source '{request.source}' draws square grey images, not {channels}x{height}x{width}")
    count = request.limit or DEFAULT_COUNT
    random = generator(request.seed, "glyphs")
    canvases = _canvases(letters)  # [fonts, letters, 64, 64]
    labels = torch.arange(count) % len(letters)
    fonts = torch.randint(len(FONTS), (count,), generator=random)
    chunks = [
        _deform(canvases[fonts[rows], labels[rows]][:, None], height, random)
        for rows in torch.arange(count).split(1000)
    ]
    images = torch.cat(chunks).mul(255).round().to(torch.uint8).numpy()
    fonts_note = "Bitstream Vera / STIX (OFL) / Computer Modern (public domain) fonts shipped with matplotlib"
    return Images(images, labels.numpy(), tuple(letters), fonts_note, "drawn by fedinverse.data.glyphs")


def _canvases(letters: str) -> Tensor:
    """Draw ``letters`` in every font, its larger side filling MNIST's box: float [fonts, letters, 64, 64]."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    side = round(_CANVAS * _BOX)
    drawn = np.zeros((len(FONTS), len(letters), _CANVAS, _CANVAS), np.uint8)
    for row, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 96)
        for column, letter in enumerate(letters):
            sheet = Image.new("L", (192, 192))
            ImageDraw.Draw(sheet).text((48, 24), letter, fill=255, font=font)
            ink = sheet.crop(sheet.getbbox())
            scale = side / max(ink.size)
            ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))))
            canvas = Image.new("L", (_CANVAS, _CANVAS))
            canvas.paste(ink, ((_CANVAS - ink.width) // 2, (_CANVAS - ink.height) // 2))
            drawn[row, column] = np.asarray(canvas)
    return torch.from_numpy(drawn).float() / 255


def _deform(letters: Tensor, size: int, random: torch.Generator) -> Tensor:
    """Deform letters [B, 1, 64, 64] in [0, 1] and sample them at [B, 1, size, size], centred by mass."""
    count = len(letters)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=random) * (high - low) + low

    # Stroke weight: blur, then cut at a random level; a low cut thickens, a high one thins.
    blurred = F.avg_pool2d(F.avg_pool2d(letters, 5, 1, 2), 5, 1, 2)
    level = uniform(0.18, 0.5, 1, 1, 1) * 14
    paper = torch.sigmoid(-level)  # what the cut makes of no ink: subtracted, so that the ground stays black
    inked = (torch.sigmoid(blurred * 14 - level) - paper).clamp_min(0) / (1 - paper)

    # Output pixel -> canvas position: rotation, shear and scale, then a smooth elastic displacement.
    angle, shear = uniform(-0.25, 0.25), uniform(-0.35, 0.35)
    across, down = 1 / uniform(0.7, 1.05), 1 / uniform(0.85, 1.05)
    cos, sin = angle.cos(), angle.sin()
    frame = size / 28  # MNIST's 28 pixels inside a frame of `size`
    matrix = (
        torch.stack(
            [
                across * cos,
                across * (shear - sin),
                torch.zeros(count),
                down * sin,
                down * cos,
                torch.zeros(count),
            ],
            1,
        ).view(count, 2, 3)
        * frame
    )
    grid = F.affine_grid(matrix, [count, 1, size, size], align_corners=False)
    coarse = torch.randn(count, 2, 4, 4, generator=random) * 0.09
    warp = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    grid = grid + warp.permute(0, 2, 3, 1)
    image = F.grid_sample(inked, grid, align_corners=False)

    # Centre by mass, as MNIST is: shift the sampling grid by the offset of the ink's centre.
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    mass = image.sum((1, 2, 3)).clamp_min(1e-6)
    centre = torch.stack([(image.sum((1, 2)) * axis).sum(1), (image.sum((1, 3)) * axis).sum(1)], 1) / mass[:, None]
    shift = torch.eye(2).repeat(count, 1, 1)
    still = F.affine_grid(torch.cat([shift, centre[:, :, None]], 2), [count, 1, size, size], align_corners=False)
    return F.grid_sample(image, still, align_corners=False).clamp(0, 1)
