"""Pictures that were cut out of others, moved, stretched or turned a little: found by laying one over the other.

Pictures are compared in two steps. First, windows of both (the whole, and nine at each of three sizes) as sketches of
8 x 8 grey pixels: whole against window, window against whole, and opposite windows of one size, which a moved copy
shares. Then the best candidates of every picture are laid over each other by an affine map, which gradient ascent
improves until their correlation, over the part that both show, is highest; ``SAME`` or more is a copy.

Measured, two thousand pictures beside three hundred others, seed 0: no two faces of ``synthfaces`` and no two digits of
MNIST are taken for copies (.968 and .965 at most); five pairs of letters of ``glyphs`` are: one recipe drew them nearly
alike. Beside a thousand others, of a hundred copies there are found: cut to 90 % of the side, 98 faces, 98 letters, 77
digits; cut to 80 %, 86, 99 and 66; moved by up to 4 pixels (faces of 64, the others of 32), 94, 96 and 62; turned by
three degrees, 8, 100 and 100; mirrored, all. A digit's black border leaves little to compare.
"""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fedinverse.optimisers import Adam

SAME = 0.99
_SKETCH = 8  # pixels of a side
_SIZES = (0.9, 0.8, 0.7)
_WORTH_A_LOOK = 0.75  # least correlation of sketches
_ASCENTS = ((16, 8, 0.82), (16, 20, 0.9), (32, 25, SAME))  # pixels of a side, steps, and the correlation to go on
_RATE = 0.02
_SHARED = 0.45  # least part of a picture that both must show
_AT_ONCE = 2000  # pairs laid over each other
Window = tuple[float, float, float]  # top, left, side, as parts of the picture's


class Originals:
    """Pictures whose copies are looked for, described once.

    Args:
        pictures: grey, float [N, H, W] in [0, 255].
    """

    def __init__(self, pictures: Tensor) -> None:
        self._sides = [_Set(pictures), _Set(pictures.flip(2))]

    def copies(self, public: Tensor) -> Iterator[tuple[int, int]]:
        """Yield (row of the originals, row of ``public``) of pictures that show the same, as they are or mirrored.

        Args:
            public: grey pictures, float [M, H, W] in [0, 255]; as many at once as memory allows times the originals.
        """
        theirs = _Set(public)
        for ours in self._sides:
            pairs = _candidates(ours.sketches, theirs.sketches)
            for part in zip(*(torch.split(each, _AT_ONCE) for each in pairs), strict=True):
                yield from _copies(ours, theirs, *part)


class _Set:
    """Pictures with what is compared of them: sketches of every window, and the whole at the sides of ``_ASCENTS``."""

    def __init__(self, pictures: Tensor) -> None:
        self.sketches = [_sketches(pictures, window) for window in _windows()]
        self.small = {
            side: F.interpolate(pictures[:, None], size=(side, side), mode="area").squeeze(1)
            for side in {side for side, _, _ in _ASCENTS}
        }


def _copies(ours: _Set, theirs: _Set, rows: Tensor, columns: Tensor, maps: Tensor) -> list[tuple[int, int]]:
    for side, steps, least in _ASCENTS:
        if not len(rows):
            break
        closeness, maps = _laid_over(ours.small[side][rows], theirs.small[side][columns], maps, steps)
        near = closeness >= least
        rows, columns, maps = rows[near], columns[near], maps[near]
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _windows() -> list[Window]:
    whole: list[Window] = [(0.0, 0.0, 1.0)]
    for size in _SIZES:
        whole += [(top, left, size) for top, left in product((0.0, (1 - size) / 2, 1 - size), repeat=2)]
    return whole


def _pairs(windows: list[Window]) -> list[tuple[int, int]]:
    """Return which window of a private picture is compared with which of a public one."""
    pairs = [(0, 0)]
    for number, (top, left, size) in enumerate(windows[1:], 1):
        opposite = windows.index((_far(top, size), _far(left, size), size))
        pairs += [(0, number), (number, 0), *([(number, opposite)] if opposite != number else [])]
    return pairs


def _far(start: float, size: float) -> float:
    return {0.0: 1 - size, 1 - size: 0.0}.get(start, start)


def _candidates(ours: list[Tensor], theirs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows [n], columns [n] and first maps [n, 2, 3] of the pairs that are worth a look.

    Args:
        ours: sketches [N, 64] of every window.
        theirs: likewise, [M, 64].
    """
    windows = _windows()
    pairs, (ours_count, theirs_count) = _pairs(windows), (len(ours[0]), len(theirs[0]))
    # Of every public picture, and of every private one: how near the nearest of the others is, which, by which pair.
    kept = [
        (torch.full((count,), -1.0), *torch.zeros(2, count, dtype=torch.long)) for count in (theirs_count, ours_count)
    ]
    for number, (mine, other) in enumerate(pairs):
        value = ours[mine] @ theirs[other].T
        for axis, (best, nearest, how) in enumerate(kept):
            closeness, place = value.max(axis)
            nearer = closeness > best
            best[nearer], nearest[nearer], how[nearer] = closeness[nearer], place[nearer], number
    (of_public, rows, how), (of_private, columns, how_private) = kept
    named = (rows[columns] == torch.arange(ours_count)) & (how[columns] == how_private)  # by the public picture already
    worth = torch.cat([of_public >= _WORTH_A_LOOK, (of_private >= _WORTH_A_LOOK) & ~named])
    rows = torch.cat([rows, torch.arange(ours_count)])[worth]
    columns = torch.cat([torch.arange(theirs_count), columns])[worth]
    maps = torch.stack([_map(windows[mine], windows[other]) for mine, other in pairs])
    return rows, columns, maps[torch.cat([how, how_private])[worth]]


def _sketches(images: Tensor, window: Window) -> Tensor:
    """Return the ``window`` of ``images`` as vectors of length 1, [N, 64]; of one shade: zeros."""
    (top, height), (left, width) = (
        (round(start * side), round(window[2] * side)) for start, side in zip(window, images.shape[1:], strict=False)
    )
    part = images[:, None, top : top + height, left : left + width]
    small = F.interpolate(part, size=(_SKETCH, _SKETCH), mode="bilinear", antialias=True).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    return torch.where(length > 1, centred / length.clamp_min(1), torch.zeros_like(centred))


def _map(mine: Window, other: Window) -> Tensor:
    """Return the affine map [2, 3], in coordinates from -1 to 1, that lays ``mine`` over ``other``."""
    (x, y), (their_x, their_y) = ((2 * left + size - 1, 2 * top + size - 1) for top, left, size in (mine, other))
    scale = mine[2] / other[2]
    return torch.tensor([[scale, 0, x - scale * their_x], [0, scale, y - scale * their_y]])


def _laid_over(ours: Tensor, theirs: Tensor, maps: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Improve ``maps`` of pairs of pictures; return their correlations [n] and the better maps."""
    better = maps.clone().requires_grad_()
    optimiser = Adam([better], lr=_RATE)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / steps) + _RATE / 20
        optimiser.zero_grad()
        (-_correlation(ours, theirs, better).sum()).backward()
        optimiser.step()
    with torch.no_grad():
        size = torch.linalg.det(better[:, :, :2])
        sound = (size > 0.4) & (size < 2.5)
        return torch.where(sound, _correlation(ours, theirs, better), torch.zeros(len(maps))), better.detach()


def _correlation(private: Tensor, public: Tensor, maps: Tensor) -> Tensor:
    """Return the correlation of pictures over what both show, [n]; 0 where that is little, or of one shade."""
    grid = F.affine_grid(maps, [len(maps), 1, *public.shape[1:]], align_corners=False)
    moved = F.grid_sample(private[:, None], grid, padding_mode="border", align_corners=False).squeeze(1)
    inside = grid.abs() <= 1
    both = (inside[..., 0] & inside[..., 1]).float()
    count = both.sum((1, 2), keepdim=True).clamp_min(1)
    one, other = ((images - (images * both).sum((1, 2), keepdim=True) / count) * both for images in (moved, public))
    spread, other_spread = (part.square().sum((1, 2)) for part in (one, other))
    pixels = count.flatten()
    little = (pixels < _SHARED * public[0].numel()) | (spread < 25 * pixels) | (other_spread < 25 * pixels)
    value = (one * other).sum((1, 2)) / (spread * other_spread + 1).sqrt()
    return torch.where(little, torch.zeros_like(value), value)
