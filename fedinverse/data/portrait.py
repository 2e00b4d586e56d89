"""Draw a face from numbers: what ``synthfaces`` renders with.

A head is a tapered ellipsoid. A pixel is lifted to the ellipsoid, turned back by yaw and pitch into the frame
of the face, and there painted: features stay where the identity has them and foreshorten as the head turns.
Nose, sockets, cheeks, lips and chin are a height map whose slope bends the normal, so that light shows them.
Everything is batched.

Coordinates: x right, y down, the unit is half the side of the square that holds the face.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# What a person is: one number per trait, uniform between the bounds, fixed for all images of the person.
TRAITS: Mapping[str, tuple[float, float]] = {
    "male": (0, 1),  # below .5: a man's hair, brows and beard
    "skin": (0, 1), "ruddy": (-0.03, 0.05), "cheek_colour": (0, 0.22),
    "face_width": (0.49, 0.64), "face_height": (0.70, 0.84), "jaw": (-0.16, 0.24), "chin": (0, 0.25),
    "cheekbone": (0, 0.09), "socket": (0.02, 0.10), "ear": (0.10, 0.17),
    "hair": (0, 1), "grey": (0, 1), "bald": (0, 1), "hair_length": (0, 1), "hair_volume": (0.04, 0.26),
    "hairline": (-0.56, -0.24), "temple": (0.1, 1.1), "parting": (-0.5, 0.5), "peak": (-0.08, 0.08),
    "wave": (0, 0.07), "wave_count": (5, 14), "strand": (14, 34),
    "eye_distance": (0.19, 0.27), "eye_height": (-0.15, -0.05), "eye_width": (0.085, 0.125),
    "eye_open": (0.035, 0.062), "eye_tilt": (-0.28, 0.28), "iris": (0, 1), "iris_size": (0.038, 0.052),
    "lash": (0.25, 1), "lid": (0, 1),
    "brow_height": (0.10, 0.16), "brow_width": (0.11, 0.17), "brow_thickness": (0.012, 0.038),
    "brow_arch": (0, 0.06), "brow_tilt": (-0.22, 0.22), "brow_density": (0.45, 1),
    "nose_length": (0.13, 0.27), "nose_width": (0.055, 0.125), "nose_bridge": (0.026, 0.05),
    "nose_height": (0.06, 0.15), "nose_bend": (-0.03, 0.03),
    "mouth_height": (0.36, 0.46), "mouth_width": (0.14, 0.235), "lip_upper": (0.015, 0.05),
    "lip_lower": (0.025, 0.065), "lip_colour": (0, 1), "mouth_tilt": (-0.02, 0.02),
    "beard": (0, 1), "beard_line": (0.22, 0.46), "moustache": (0, 1),
    "glasses": (0, 1), "frame": (0, 1), "frame_round": (0, 1), "fold": (0, 0.26), "freckles": (0, 1),
    "mole": (0, 1), "mole_x": (-0.34, 0.34), "mole_y": (0.02, 0.50),
}  # fmt: skip

# What one photograph adds: pose, expression, light, clothes, background.
CIRCUMSTANCES: Mapping[str, tuple[float, float]] = {
    "yaw": (-0.55, 0.55), "pitch": (-0.20, 0.22), "roll": (-0.12, 0.12), "scale": (1.05, 1.18),
    "shift_x": (-0.05, 0.05), "shift_y": (-0.05, 0.05),
    "smile": (-0.35, 1), "mouth_open": (-0.7, 1), "brow_raise": (-0.02, 0.035), "squint": (0.55, 1.05),
    "gaze_x": (-0.03, 0.03), "gaze_y": (-0.012, 0.012),
    "light_side": (-1.15, 1.15), "light_height": (-0.1, 1.0), "light_warmth": (-0.09, 0.10),
    "ambient": (0.38, 0.68), "exposure": (0.82, 1.16), "gloss": (0.02, 0.14),
    "cloth_r": (0.05, 0.9), "cloth_g": (0.05, 0.9), "cloth_b": (0.05, 0.9), "collar": (0.12, 0.38),
    "ground_r": (0.1, 0.9), "ground_g": (0.1, 0.9), "ground_b": (0.1, 0.9), "ground_turn": (0, 6.283),
    "ground_slope": (0, 0.22), "blob_x": (-1.2, 1.2), "blob_y": (-1.2, 1.2), "blob_size": (0.25, 0.9),
    "blob_light": (-0.3, 0.3), "blob2_x": (-1.2, 1.2), "blob2_y": (-1.2, 1.2), "blob2_light": (-0.3, 0.3),
}  # fmt: skip

_SKIN = ((0.99, 0.87, 0.79), (0.95, 0.78, 0.66), (0.88, 0.67, 0.52), (0.74, 0.52, 0.37), (0.55, 0.37, 0.26), (0.37, 0.24, 0.17))  # fmt: skip  # noqa: E501
_HAIR = ((0.06, 0.05, 0.06), (0.17, 0.11, 0.08), (0.33, 0.21, 0.13), (0.52, 0.23, 0.11), (0.66, 0.49, 0.29), (0.89, 0.77, 0.52))  # fmt: skip  # noqa: E501
_IRIS = ((0.13, 0.07, 0.04), (0.30, 0.17, 0.08), (0.42, 0.33, 0.14), (0.28, 0.45, 0.28), (0.25, 0.45, 0.66), (0.48, 0.56, 0.60))  # fmt: skip  # noqa: E501

Numbers = dict[str, Tensor]


def draw(person: Numbers, photograph: Numbers, height: int, width: int, pixel: float) -> Tensor:
    """Draw one face per row.

    Args:
        person: every trait of ``TRAITS``, float [B].
        photograph: every number of ``CIRCUMSTANCES``, float [B].
        height: in pixels.
        width: in pixels.
        pixel: side of a pixel in units of half the face's square: 2 / side fills the image with it.

    Returns:
        Float [B, 3, height, width] in [0, 1].
    """
    numbers = {name: value.view(-1, 1, 1) for name, value in (person | photograph).items()}
    return _Portrait(numbers, height, width, pixel).picture()


class _Portrait:
    """One batch under the brush: the frame of every pixel, the colours so far, how much of it is person."""

    def __init__(self, numbers: Numbers, height: int, width: int, pixel: float) -> None:
        self.n = n = numbers
        self.pixel = pixel
        self.soft = 1.6 * pixel  # width of an edge: anti-aliasing
        down = ((torch.arange(height) + 0.5 - height / 2) * pixel).view(1, -1, 1)
        across = ((torch.arange(width) + 0.5 - width / 2) * pixel).view(1, 1, -1)
        self.frame = (across, down)
        # Undo shift, roll and scale; the head's centre lies a little below the middle of the frame.
        x, y = across - n["shift_x"], down - 0.06 - n["shift_y"]
        cos, sin = n["roll"].cos() / n["scale"], n["roll"].sin() / n["scale"]
        self.x, self.y = cos * x + sin * y, cos * y - sin * x
        # On the ellipsoid: unit coordinates, depth, and the same turned into the frame of the face.
        low = (self.y / n["face_height"]).clamp(0, 1)
        self.taper = 1 - n["jaw"] * low * low
        nx, ny = self.x / (n["face_width"] * self.taper), self.y / n["face_height"]
        radius2 = nx * nx + ny * ny
        self.rim = radius2.sqrt()
        rim = self.rim.clamp_min(1)
        self.normal = (nx / rim, ny / rim, (1 - radius2).clamp_min(0).sqrt())
        depth = self.normal[2]
        yaw_cos, yaw_sin, pitch_cos, pitch_sin = (
            n["yaw"].cos(), n["yaw"].sin(), n["pitch"].cos(), n["pitch"].sin(),
        )  # fmt: skip
        up, ahead = ny * pitch_cos - depth * pitch_sin, ny * pitch_sin + depth * pitch_cos
        self.fx = (nx * yaw_cos - ahead * yaw_sin) * n["face_width"]
        self.fy = up * n["face_height"]
        self.ahead = nx * yaw_sin + ahead * yaw_cos
        self.head = self.step((1 - self.rim) * n["face_width"])
        self._mix_colours()
        self.relief = torch.zeros_like(self.fx)  # height over the ellipsoid, same unit
        self.canvas = self._background()
        self.present = torch.zeros_like(self.fx)

    # ------------------------------------------------------------------ tools

    def step(self, distance: Tensor, soft: float = 1.0) -> Tensor:
        """Return 1 where ``distance`` is positive, 0 where negative, with an anti-aliased edge."""
        return (distance / (self.soft * soft)).add_(0.5).clamp_(0, 1)

    def paint(self, mask: Tensor, colour: Tensor) -> None:
        """Cover the canvas with ``colour`` [B, 3, 1 or H, 1 or W] where ``mask`` [B, H, W] says."""
        self.canvas = torch.lerp(self.canvas, colour.expand_as(self.canvas), mask[:, None].expand_as(self.canvas))

    def darken(self, amount: Tensor) -> None:
        """Multiply the canvas by 1 - ``amount`` [B, H, W]."""
        self.canvas = self.canvas * (1 - amount)[:, None]

    def colour(self, name: str) -> Tensor:
        """Return the numbers ``name_r``, ``name_g``, ``name_b`` as a muted colour [B, 3, 1, 1]."""
        pure = torch.stack([self.n[f"{name}_{part}"] for part in "rgb"], 1)
        return torch.lerp(pure.mean(1, keepdim=True), pure, 0.45)

    def bump(self, x: Tensor, y: Tensor, wide: Tensor | float, high: Tensor | float) -> Tensor:
        """Return a Gaussian hill of height 1 at the origin of ``x`` and ``y``."""
        return (-((x / wide) ** 2) - (y / high) ** 2).exp()

    # ------------------------------------------------------------------ the picture

    def picture(self) -> Tensor:
        """Paint from back to front, light it, develop it."""
        self._hair_behind()
        self._body()
        self._ears()
        self._skin()
        for side in (-1.0, 1.0):
            self._eye(side)
            self._brow(side)
        self._nose()
        self._mouth()
        self._beard()
        self._hair_in_front()
        self._glasses()
        return self._light()

    def _mix_colours(self) -> None:
        n = self.n
        self.skin = ramp(_SKIN, n["skin"]) + torch.tensor([1.0, -0.4, -0.4]).view(3, 1, 1) * n["ruddy"][:, None]
        fair = (1 - n["skin"]).clamp(0, 1)  # dark skin goes with dark hair and brown eyes
        self.hair_colour = ramp(_HAIR, n["hair"] * (0.25 + 0.75 * (1.6 * fair).clamp(0, 1)))
        grey = ((n["grey"] - 0.82) * 8).clamp(0, 0.85)[:, None]
        self.hair_colour = torch.lerp(self.hair_colour, torch.full_like(self.hair_colour, 0.72), grey)
        self.iris_colour = ramp(_IRIS, n["iris"] * (1.4 * fair).clamp(0.12, 1))
        self.man = self.step((0.5 - n["male"]) * 100)
        self.bald = ((n["bald"] - 0.8) * 1e3).clamp(0, 1) * self.man

    def _background(self) -> Tensor:
        n, (x, y) = self.n, self.frame
        slope = (x * n["ground_turn"].cos() + y * n["ground_turn"].sin()) * n["ground_slope"]
        blobs = self.bump(x - n["blob_x"], y - n["blob_y"], n["blob_size"], n["blob_size"]) * n["blob_light"]
        more = self.bump(x - n["blob2_x"], y - n["blob2_y"], 0.4, n["blob_size"] * 1.5) * n["blob2_light"]
        return self.colour("ground") + (slope + blobs + more)[:, None]

    def _hair_behind(self) -> None:
        n = self.n
        # The back of the head shows on the side it turns away from.
        x, y = self.x + 0.12 * n["yaw"], self.y + 0.03
        around = torch.atan2(x, -y)  # from the crown
        edge = 1 + n["wave"] * (n["wave_count"].round() * around).cos()
        volume = n["hair_volume"] * (1 - 0.55 * self.man)
        wide, high = n["face_width"] * (1.0 + 0.8 * volume), n["face_height"] * (1.0 + 0.75 * volume)
        cap = ((x / wide) ** 2 + (y / high) ** 2).sqrt()
        long = self._hair_end()
        curtain = torch.minimum(
            wide * edge * (1 + 0.12 * y) - x.abs(), torch.minimum(y + 0.1, long + 0.05 * (5 * x).cos() - y)
        )
        above = torch.minimum((edge - cap) * wide, long.clamp_min(0.12) - y)
        mask = torch.maximum(self.step(above, 1.5), self.step(curtain, 1.5)) * (1 - self.bald)
        strands = self._strands(x.abs() + 0.10 * (4 * y).sin(), y)
        depth = 0.72 + 0.12 * n["hair_volume"]
        self.paint(mask, self.hair_colour * (strands * depth)[:, None])
        self.present = torch.maximum(self.present, mask)

    def _strands(self, across: Tensor, along: Tensor) -> Tensor:
        """Return the brightness of the hair, 1 on average: strands of two widths that drift as they fall."""
        wide = (self.n["strand"] * across + 2.1 * (3 * along).sin()).sin()
        fine = (2.7 * self.n["strand"] * across + 5 * along).sin()
        return 1 + 0.07 * wide + 0.05 * wide * fine

    def _hair_end(self) -> Tensor:
        """Return where the hair ends, from the ear lobe to the chest."""
        n = self.n
        return torch.lerp(0.15 + 1.5 * n["hair_length"], -0.05 + 0.35 * n["hair_length"] ** 3, self.man)

    def _body(self) -> None:
        n = self.n
        x, y = self.x, self.y - n["face_height"]
        wide = n["face_width"] * (0.52 + 0.16 * self.man)
        neck = self.step(torch.minimum(wide + 0.3 * (y + 0.05).clamp_min(0) ** 2 - x.abs(), y + 0.45))
        self.paint(neck, self.skin * 0.82)
        self.darken(neck * 0.35 * self.bump(x, y - 0.02, wide * 1.4, 0.17))  # the chin's shadow
        shoulder = y - n["collar"] + 0.05 - 0.28 * (x.abs() - wide).clamp_min(0)
        neckline = shoulder - 0.22 * (1 - (x / wide) ** 2).clamp_min(0)
        cloth = self.step(neckline)
        self.paint(cloth, self.colour("cloth"))
        self.darken(cloth * 0.25 * self.bump(neckline, x * 0, 0.05, 1))
        self.present = torch.maximum(self.present, torch.maximum(neck, cloth))

    def _ears(self) -> None:
        n = self.n
        for side in (-1.0, 1.0):
            width = (1 + 1.3 * side * n["yaw"]).clamp(0.25, 1.2)  # the ear turned away hides behind the cheek
            x = self.x * side - n["face_width"] * (0.94 - 0.1 * side * n["yaw"])
            y = self.y + 0.02 - 0.25 * n["pitch"]
            size = n["ear"]
            outline = 1 - ((x / (0.55 * size * width)) ** 2 + (y / size) ** 2).sqrt()
            mask = self.step(outline * 0.5 * size)
            self.paint(mask, self.skin * torch.tensor([0.97, 0.86, 0.84]).view(3, 1, 1))
            self.darken(mask * 0.3 * self.bump(x, y, 0.22 * size, 0.5 * size))
            self.present = torch.maximum(self.present, mask)

    def _skin(self) -> None:
        n = self.n
        x, y = self.fx, self.fy
        self.paint(self.head, self.skin)
        red = torch.tensor([0.10, -0.12, -0.10]).view(3, 1, 1)
        blush = torch.zeros_like(x)
        for side in (-1.0, 1.0):
            cheek = self.bump(x * side - 0.27, y - 0.18, 0.13, 0.11)
            blush = blush + cheek
            self.relief += cheek * (n["cheekbone"] + 0.025 * n["smile"].clamp_min(0))
            self.relief -= n["socket"] * self.bump(x * side - n["eye_distance"], y - n["eye_height"], 0.15, 0.085)
            # The fold from the nose's wing to the corner of the mouth deepens with a smile.
            line = x * side - (n["nose_width"] + 0.03 + 0.42 * (y - n["nose_length"]).clamp_min(0))
            span = self.bump(y - 0.5 * (n["nose_length"] + n["mouth_height"]), x * 0, 0.11, 1)
            self.darken(
                self.head * span * self.bump(line, x * 0, 0.018, 1) * n["fold"] * (0.5 + n["smile"].clamp_min(0))
            )
        self.canvas = self.canvas + (self.head * blush * n["cheek_colour"])[:, None] * red
        self.relief += n["chin"] * 0.22 * self.bump(x, y - 0.92 * n["face_height"] + 0.14, 0.13, 0.10)
        self.relief += 0.025 * self.bump(x, y + 0.46, 0.3, 0.14)  # forehead
        spots = ((41 * x + 9 * (17 * y).sin()).sin() * (37 * y + 7 * (23 * x).sin()).sin() - 0.45).clamp_min(0)
        where = blush + self.bump(x, y - 0.1, 0.1, 0.12)
        self.darken(self.head * spots * where.clamp(0, 1) * (n["freckles"] - 0.7).clamp_min(0) * 2.2)
        mole = self.step(0.019 - ((x - n["mole_x"]) ** 2 + (y - n["mole_y"]) ** 2).sqrt())
        self.darken(self.head * mole * 0.65 * self.step((n["mole"] - 0.7) * 100))
        self.present = torch.maximum(self.present, self.head)

    def _eye(self, side: float) -> None:
        n = self.n
        x, y = (self.fx * side - n["eye_distance"]), self.fy - n["eye_height"]
        y = y + n["eye_tilt"] * x  # outer corner up
        s = (x / n["eye_width"]).clamp(-1.4, 1.4)
        arch = 1 - s * s
        opening = n["eye_open"] * n["squint"] * (1 - 0.22 * n["smile"].clamp_min(0))
        upper, lower = y + opening * arch, 0.62 * opening * arch - y
        inside = torch.minimum(torch.minimum(upper, lower), (1 - s.abs()) * n["eye_width"])
        on_face = self.head * self.step(self.ahead * 0.5)
        white = self.step(inside) * on_face
        # Crease, shadow of the brow, eyelid.
        lid = self.bump(x, y + opening * 1.9, n["eye_width"] * 1.1, 0.028) * on_face
        self.darken(lid * (0.12 + 0.22 * n["lid"]))
        self.darken(self.bump(x, y - 0.075, n["eye_width"], 0.025) * on_face * 0.12)
        self.paint(white, torch.full_like(self.skin, 0.93))
        gaze_x, gaze_y = x * side - n["gaze_x"], y + 0.15 * opening - n["gaze_y"]
        distance = (gaze_x * gaze_x + gaze_y * gaze_y).sqrt()
        self.paint(white * self.step(n["iris_size"] - distance), self.iris_colour)
        self.paint(white * self.step(0.45 * n["iris_size"] - distance), torch.full_like(self.skin, 0.03))
        glint = self.step(0.011 - ((gaze_x + 0.016) ** 2 + (gaze_y + 0.016) ** 2).sqrt())
        self.paint(white * glint, torch.full_like(self.skin, 1.0))
        lash = self.bump(upper - 0.006, x * 0, 0.013, 1) * self.step(arch * 0.06) * on_face
        self.paint(lash * (0.55 + 0.4 * n["lash"] * (1 - 0.5 * self.man)), torch.full_like(self.skin, 0.07))
        under = self.bump(lower, x * 0, 0.010, 1) * self.step(arch * 0.06) * on_face
        self.darken(under * (0.2 + 0.25 * n["lash"]))

    def _brow(self, side: float) -> None:
        n = self.n
        x = self.fx * side - n["eye_distance"] - 0.01
        y = self.fy - n["eye_height"] + n["brow_height"] + n["brow_raise"]
        s = (x / n["brow_width"]).clamp(-1.5, 1.5)
        centre = y + n["brow_arch"] * (1 - s * s) - 0.02 + n["brow_tilt"] * x
        thick = n["brow_thickness"] * (0.75 + 0.45 * self.man) * (1 - 0.45 * s) * (1 - s**4).clamp_min(0)
        mask = self.step(thick - centre.abs(), 1.4) * self.head * self.step(1 - s.abs())
        self.paint(mask * n["brow_density"], self.hair_colour * 0.62)
        self.relief += 0.020 * self.bump(x, y, 0.17, 0.06)

    def _nose(self) -> None:
        n = self.n
        tip = n["nose_length"]
        y = self.fy
        along = ((y - n["eye_height"]) / (tip - n["eye_height"])).clamp(0, 1)
        # What stands out from the face moves further as the head turns.
        x = self.fx - 0.75 * n["nose_height"] * along * n["yaw"].sin() - n["nose_bend"] * along * (1 - along)
        wide = n["nose_bridge"] + (n["nose_width"] * 0.72 - n["nose_bridge"]) * along * along
        below = 1 - ((y - tip) / 0.055).clamp(0, 1)
        ridge = (-((x / wide) ** 2)).exp() * along**1.3 * below * (3 - 2 * below) * below
        wings = torch.zeros_like(x)
        for side in (-1.0, 1.0):
            wing = self.bump(x * side - 0.72 * n["nose_width"], y - tip + 0.02, 0.42 * n["nose_width"], 0.045)
            wings = wings + wing
            nostril = self.bump(x * side - 0.42 * n["nose_width"], y - tip - 0.022, 0.30 * n["nose_width"], 0.014)
            self.darken(self.head * nostril * 0.62)
            self.darken(  # the crease behind the wing
                self.head * 0.22 * self.bump(x * side - 1.12 * n["nose_width"], y - tip + 0.015, 0.018, 0.05)
            )
        self.relief += n["nose_height"] * ridge + 0.3 * n["nose_height"] * wings
        self.darken(self.head * 0.16 * self.bump(x, y - tip - 0.05, n["nose_width"], 0.03))

    def _mouth(self) -> None:
        n = self.n
        smile, gap = n["smile"], n["mouth_open"].clamp_min(0)
        x = self.fx
        y = self.fy - n["mouth_height"] - n["mouth_tilt"] * x * 4
        wide = n["mouth_width"] * (1 + 0.16 * smile)
        s = (x / wide).clamp(-1.4, 1.4)
        arch = 1 - s * s
        middle = y + smile * 0.07 * (s * s - 0.35)  # a smile lifts the corners
        opening = 0.045 * gap * arch.clamp_min(0)
        bow = 1 - 0.22 * self.bump(s, x * 0, 0.18, 1)  # Cupid's bow
        thin = 1 - 0.25 * smile.clamp_min(0)
        upper = torch.minimum(middle + opening + n["lip_upper"] * thin * arch * bow, -middle)
        lower = torch.minimum(opening + n["lip_lower"] * thin * arch - middle, middle)
        corner = self.step((1 - s.abs()) * wide)
        tint = torch.tensor([0.80, 0.32, 0.34]).view(3, 1, 1)
        strength = (0.25 + 0.5 * n["lip_colour"] * (1 - 0.6 * self.man))[:, None]
        lips = torch.lerp(self.skin * torch.tensor([0.88, 0.68, 0.68]).view(3, 1, 1), self.skin * tint, strength)
        upper_mask, lower_mask = self.step(upper) * self.head * corner, self.step(lower) * self.head * corner
        self.paint(upper_mask, lips * 0.88)
        self.paint(lower_mask, lips)
        inside = (
            self.step(torch.minimum(opening - middle, opening + middle)) * self.head * corner * (gap * 4).clamp(0, 1)
        )
        self.paint(inside, torch.tensor([0.22, 0.06, 0.06]).view(1, 3, 1, 1))
        teeth = inside * self.step(opening * 0.45 - middle) * self.step((0.9 - s.abs()) * wide)
        self.paint(teeth * ((smile + 0.25) * 4).clamp(0, 0.95), torch.full_like(self.skin, 0.92))
        line = self.bump(middle, x * 0, 0.011, 1) * corner * self.head * (1 - inside)
        self.darken(line * 0.5)
        self.darken(self.bump(x, middle - n["lip_lower"] - 0.05, 0.09, 0.022) * self.head * 0.14)
        self.relief += 0.030 * self.bump(s * 1.1, middle - 0.02, 1.0, 0.05)
        self.lips = torch.maximum(torch.maximum(upper_mask, lower_mask), inside)

    def _beard(self) -> None:
        n = self.n
        x, y = self.fx, self.fy
        kind = ((n["beard"] - 0.62) * 2.8).clamp(0, 0.92) * self.man
        line = n["beard_line"] - 0.55 * (x / n["face_width"]).abs() ** 3
        cover = self.step(y - line, 5) * (1 - self.lips)
        bare = self.bump(x, y - n["mouth_height"], n["mouth_width"] * 1.15, 0.10)  # around the mouth
        self.paint(self.head * cover * (1 - 0.85 * bare) * kind, self.hair_colour * 0.9)
        between = 0.5 * (n["nose_length"] + 0.04 + n["mouth_height"] - n["lip_upper"])
        tache = self.bump(x, y - between - 0.35 * x * x, n["mouth_width"] * 0.95, 0.036) * (1 - self.lips)
        worn = torch.maximum(((n["moustache"] - 0.7) * 4).clamp(0, 0.95) * self.man, kind * 0.9)
        self.paint(self.head * (tache * 1.5).clamp(0, 1) * worn, self.hair_colour * 0.9)

    def _hair_in_front(self) -> None:
        n = self.n
        x, y = self.fx, self.fy
        across = x / n["face_width"]
        line = (
            n["hairline"]
            + n["temple"] * across * across * 0.45
            + n["parting"] * across * 0.22
            + n["peak"] * self.bump(across, x * 0, 0.18, 1)
        )
        ragged = 0.012 * (0.7 * n["strand"] * across + 2 * y).sin()
        scalp = self.step(line + ragged - y, 2)
        # Hair grows beside the face, down to where it ends; a man's stops at the ear.
        beside = torch.minimum(across.abs() - 0.93 + 0.25 * n["hair_volume"], self._hair_end().clamp(max=0.9) - y)
        behind = torch.minimum(-self.ahead, 0.3 - y)  # the side of the head that yaw brings round
        mask = torch.maximum(torch.maximum(scalp, self.step(beside * n["face_width"], 2)), self.step(behind, 3))
        volume = 0.12 * n["hair_volume"]
        shell = self.step((1 + volume - self.rim) * n["face_width"] + self.soft)  # the skin's edge stays under it
        strands = self._strands(across * (1 + 0.4 * y) + 0.3 * n["parting"] * y, y)
        shine = 1 + 0.35 * self.bump(y + 0.55 - 0.3 * across * across, x * 0, 0.09, 1)
        mask = mask * shell * (1 - self.bald)
        self.paint(mask, self.hair_colour * (strands * shine)[:, None])
        self.darken(
            self.head * (1 - self.bald) * (1 - mask) * 0.28 * self.bump((y - line).clamp_min(0), x * 0, 0.05, 1)
        )
        self.relief *= 1 - mask

    def _glasses(self) -> None:
        n = self.n
        worn = self.step((n["glasses"] - 0.84) * 100) * self.head
        x = self.fx - 0.05 * n["yaw"].sin()
        y = self.fy - n["eye_height"] - 0.02
        power = 2 + 3 * (1 - n["frame_round"])
        wide, high = 0.8 * n["eye_distance"], 0.105 + 0.03 * n["frame_round"]
        lens_x = (x.abs() - n["eye_distance"]) / wide
        lens = (lens_x.abs() ** power + (y / high).abs() ** power) ** (1 / power)
        rim = self.step(0.016 + 0.012 * n["frame"] - (lens - 1).abs() * high)
        bridge = self.step(torch.minimum(0.014 - (y + 0.03).abs(), n["eye_distance"] - wide - x.abs()))
        temple = self.step(torch.minimum(0.013 - (y + 0.03).abs(), x.abs() - n["eye_distance"] - wide))
        metal = torch.stack([0.08 + 0.5 * n["frame"] ** 2, 0.07 + 0.38 * n["frame"] ** 2, 0.08 + 0.2 * n["frame"]], 1)
        self.darken(worn * self.step(1 - lens) * 0.07)
        self.paint(worn * torch.maximum(torch.maximum(rim, bridge), temple), metal)

    def _light(self) -> Tensor:
        n = self.n
        nx, ny, nz = self.normal
        padded = F.pad((self.relief * self.head)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        slope_x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / (2 * self.pixel)
        slope_y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / (2 * self.pixel)
        nx, ny, nz = nx - slope_x, ny - slope_y, nz + 0.25  # + .25: flatter than a ball, as faces are
        length = (nx * nx + ny * ny + nz * nz).sqrt()
        side, up = n["light_side"], n["light_height"]
        lx, ly, lz = side.sin() * up.cos(), -up.sin(), side.cos() * up.cos()
        facing = ((nx * lx + ny * ly + nz * lz) / length).clamp_min(0)
        shade = n["ambient"] + (1.15 - n["ambient"]) * facing
        tint = torch.stack([1 + n["light_warmth"], torch.ones_like(n["ambient"]), 1 - n["light_warmth"]], 1)
        # Blinn's highlight, half-way between the light and the eye.
        hz = lz + 1
        half = (lx * lx + ly * ly + hz * hz).sqrt()
        gleam = ((nx * lx + ny * ly + nz * hz) / (length * half)).clamp(0, 1) ** 24 * n["gloss"] * self.head
        lit = self.canvas * shade[:, None] * tint + gleam[:, None]
        picture = torch.lerp(self.canvas, lit, self.present[:, None].expand_as(lit))
        return (picture * n["exposure"][:, None]).clamp(0, 1)


def ramp(colours: tuple[tuple[float, float, float], ...], position: Tensor) -> Tensor:
    """Return the colour at ``position`` [B, 1, 1] in [0, 1] of a piecewise linear scale, as [B, 3, 1, 1]."""
    table = torch.tensor(colours)
    place = position.flatten().clamp(0, 1) * (len(colours) - 1)
    low = place.floor().long().clamp(max=len(colours) - 2)
    mixed = torch.lerp(table[low], table[low + 1], (place - low)[:, None])
    return mixed.view(-1, 3, 1, 1)
