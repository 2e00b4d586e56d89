"""Public pictures that are the victim's own: under another name, nearly the same, grey, cut out, moved or mirrored."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from albums import Load, album, faces, picture
from PIL import Image

from fedinverse import overlap
from fedinverse.cut_copies import Originals
from fedinverse.data import Request, open_source
from fedinverse.errors import ConfigError
from fedinverse.folders import spelling
from fedinverse.overlap import shared_pictures
from fedinverse.run import prepare
from pipeline.experiment import resolved


def test_public_classes_in_another_spelling_and_public_pictures_under_another_name_are_refused(
    tmp_path: Path, tiny: Load
) -> None:
    root = album(tmp_path / "faces")
    respelled = album(tmp_path / "public", 2, 4, 5000, "Person_{}")
    with pytest.raises(ConfigError, match="shares the classes person 0 with the victim"):
        prepare(tmp_path / "run", resolved(faces(tiny, root, respelled)))
    renamed = tmp_path / "renamed"
    shutil.copytree(root / "person 0", renamed / "someone")
    album(renamed, 1, 4, 6000, "nobody {}")
    with pytest.raises(ConfigError, match=r"holds 10 pictures of the victim.*class person 0"):
        prepare(tmp_path / "run", resolved(faces(tiny, root, renamed)))
    assert prepare(tmp_path / "run", resolved(faces(tiny, root, renamed, data={"allow_overlap": True})))


def test_a_picture_cut_out_of_the_victims_or_moved_is_found_and_faces_of_others_are_not(
    tmp_path: Path, tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = open_source(Request("synthfaces", (3, 64, 64), "", 80, 0)).images
    ours, public = drawn[:20], list(drawn[20:].transpose(0, 2, 3, 1))
    for place, (top, left, side) in enumerate([(3, 2, 58), (0, 6, 56), (8, 8, 52)]):
        piece = Image.fromarray(ours[place].transpose(1, 2, 0)[top : top + side, left : left + side])
        public.append(np.asarray(piece.resize((64, 64), Image.Resampling.BILINEAR)))
    public.append(np.ascontiguousarray(public[-1][:, ::-1]))
    grey = [torch.from_numpy(np.stack(each)).float().mean(-1) for each in (ours.transpose(0, 2, 3, 1), public)]
    copies = [(0, 60), (1, 61), (2, 62), (2, 63)]
    assert sorted(set(Originals(grey[0]).copies(grey[1]))) == copies
    monkeypatch.setattr(overlap, "_AT_ONCE", 25)  # a part of the public pictures at a time, as of a large set
    steps: list[tuple[int, int]] = []
    pictures = np.stack(public).transpose(0, 3, 1, 2)
    again = overlap._cut_out(ours, np.arange(20), pictures, lambda what, done, total: steps.append((done, total)))
    assert sorted(set(again)) == copies
    assert steps == [(0, 64), (25, 64), (50, 64), (64, 64)]
    monkeypatch.undo()
    root, others = album(tmp_path / "faces", 3), album(tmp_path / "public", 2, 4, 5000, "other {}")
    for number in range(10):
        Image.fromarray(ours[number].transpose(1, 2, 0)).save(root / "person 0" / f"{number:02d}.png")
    Image.fromarray(public[60]).save(others / "other 1" / "cut.png")
    asked = faces(tiny, root, others, population={"victim_classes": ["person 0"]})
    with pytest.raises(ConfigError, match="holds 1 pictures of the victim"):
        prepare(tmp_path / "cut", resolved(asked))
    assert spelling("  Émile_Zola-2 ") == "émile zola 2"
    assert spelling("++") == "++"


def test_nearly_the_same_picture_is_found_and_another_is_not(tmp_path: Path) -> None:
    originals = np.stack([np.asarray(picture(seed).resize((32, 32))).transpose(2, 0, 1) for seed in range(20)])
    others = np.stack([np.asarray(picture(seed).resize((32, 32))).transpose(2, 0, 1) for seed in range(100, 140)])
    assert shared_pictures(originals, np.arange(20), others) == []
    for seed, name, options in ((3, "small.jpg", {"quality": 90}), (5, "half.png", {})):
        copy = picture(seed).resize((30, 30)) if name == "half.png" else picture(seed)
        copy.save(tmp_path / name, **options)
        again = np.asarray(Image.open(tmp_path / name).resize((32, 32))).transpose(2, 0, 1)
        assert shared_pictures(originals, np.arange(20), np.concatenate([others, again[None]])) == [(seed, 40)]
        assert shared_pictures(originals, np.arange(20), again[None, :, :, ::-1].copy()) == [(seed, 0)]  # mirrored


def test_a_grey_copy_of_a_colour_picture_is_that_picture() -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 4), np.uint8).repeat(8, 2).repeat(8, 3)
    grey = np.asarray(Image.fromarray(blocks[4].transpose(1, 2, 0)).convert("L"))
    assert shared_pictures(blocks, np.arange(6), blocks[6:]) == []
    assert shared_pictures(blocks, np.arange(6), np.stack([grey] * 3)[None]) == [(4, 0)]
    assert shared_pictures(np.stack([grey] * 3)[None], np.arange(1), blocks) == [(0, 4)]
