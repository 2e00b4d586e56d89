"""What the evaluator's training images are varied by: drawings are moved, photographs mirrored and relit."""

import torch

from auditor.evaluators.evaluator import jitter, relit, varied
from fedinverse.seeds import generator


def test_drawings_are_moved_and_photographs_relit() -> None:
    grey, colour = torch.rand(8, 1, 32, 32), torch.rand(8, 3, 32, 32)
    assert torch.equal(varied(grey, generator(0, "a")), jitter(grey, generator(0, "a")))
    assert torch.equal(varied(colour, generator(0, "a")), relit(colour, generator(0, "a")))
    assert not torch.equal(relit(colour, generator(0, "a")), relit(colour, generator(0, "b")))


def test_a_photograph_keeps_its_shapes_in_another_light() -> None:
    images = torch.rand(200, 3, 8, 8)
    seen = relit(images, generator(1, "light"))
    straight = [
        torch.corrcoef(torch.stack([a[0].flatten(), b[0].flatten()]))[0, 1] for a, b in zip(images, seen, strict=True)
    ]
    kept = (
        torch.stack(straight) > 0.999
    )  # light is affine within a channel: every pixel keeps its place, or is mirrored
    assert 0.35 < kept.float().mean() < 0.65
    gain = (seen.amax((2, 3)) - seen.amin((2, 3))) / (images.amax((2, 3)) - images.amin((2, 3)))
    assert 0.7 * 0.75 - 1e-4 <= gain.min() < 0.8
    assert 1.2 < gain.max() <= 1.3 * 1.25 + 1e-4
    assert gain.std(1).min() > 0  # each colour by itself
