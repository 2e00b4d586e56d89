"""Pictures, folders and files as other people have them: read right, or refused with a reason; never something else."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from albums import SHAPE, Load, album, faces, picture, read
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from fedinverse.class_lists import names_apart, names_numbered
from fedinverse.config import Population, parse
from fedinverse.data import Request, open_source
from fedinverse.data.pictures import SHUT
from fedinverse.errors import ConfigError, DataError
from fedinverse.models import build
from fedinverse.run import Run, prepare
from fedinverse.storage import load_weights
from pipeline.cli.main import app
from pipeline.experiment import load_experiment, resolved
from report.console import console
from report.threat import threat_model

# ---------------------------------------------------------------- pixels


def only_picture(root: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return read(root).images[0]


def saved(root: Path, name: str, image: Image.Image, **options: Any) -> Path:
    (root / "a").mkdir(parents=True, exist_ok=True)
    image.save(root / "a" / name, **options)
    return root


def test_sixteen_bits_of_grey_are_the_same_picture_as_eight(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    fine = Image.fromarray(ramp.astype(np.uint16) * 257)
    eight, sixteen = saved(tmp_path / "8", "x.png", Image.fromarray(ramp)), saved(tmp_path / "16", "x.png", fine)
    np.testing.assert_array_equal(only_picture(eight), only_picture(sixteen))
    saved(tmp_path / "32", "x.tif", Image.fromarray(ramp.astype(np.int32)))
    with pytest.raises(DataError, match=r"x\.tif.*no known white"):
        read(tmp_path / "32")


def test_pictures_stand_upright_and_what_is_transparent_is_white(tmp_path: Path) -> None:
    image = picture(1, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    plain = only_picture(saved(tmp_path / "plain", "x.png", image.rotate(-90, expand=True)))
    np.testing.assert_array_equal(only_picture(saved(tmp_path / "turned", "x.png", image, exif=exif)), plain)
    hidden = image.convert("RGBA")
    hidden.putalpha(0)
    assert (only_picture(saved(tmp_path / "hidden", "x.png", hidden)) == 255).all()


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".jfif", ".pgm", ".JPE"])
def test_more_suffixes_are_pictures(suffix: str, tmp_path: Path) -> None:
    kinds = {".jfif": "JPEG", ".JPE": "JPEG", ".pgm": "PPM"}
    grey = picture(2).convert("L")
    root = saved(tmp_path, f"x{suffix}", grey, **({"format": kinds[suffix]} if suffix in kinds else {}))
    assert np.abs(only_picture(root)[0].astype(int) - np.asarray(grey.resize((32, 32)))).mean() < 12


def test_a_decoder_may_raise_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("Failed to decode image")

    saved(tmp_path, "x.png", picture(0))
    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(DataError, match=r"x\.png: not a readable picture .Failed to decode"):
        read(tmp_path)


# ---------------------------------------------------------------- folders


def test_what_is_left_out_is_said_and_linked_folders_are_read(tmp_path: Path, tiny: Load) -> None:
    root = album(tmp_path / "faces", 2)
    (root / "empty").mkdir()
    (root / "person 0" / "notes.txt").write_text("no picture")
    (root / "loose.png").write_bytes((root / "person 0" / "00.png").read_bytes())
    outside = album(tmp_path / "elsewhere", 1, 4, first=9000)
    (root / "person 1" / "more").symlink_to(outside / "person 0")
    (root / "person 1" / "loop").symlink_to(root / "person 1")
    loaded = read(root)
    assert np.bincount(loaded.labels).tolist() == [10, 14]
    assert loaded.left_out == (
        "1 directories without a picture (empty)",
        "1 pictures in no directory",
        "1 files that are no pictures (1 .txt)",
    )
    run = prepare(tmp_path / "run", resolved(faces(tiny, root, album(tmp_path / "public", 2, 4, 5000, "other {}"))))
    assert "1 directories without a picture (empty)" in dict(threat_model(run))["Left out"]


def test_a_name_that_is_no_utf8_is_shown_as_far_as_it_can_be(tmp_path: Path) -> None:
    root = album(tmp_path, 1)
    (root / "person 0").rename(Path(str(tmp_path)) / b"ann\xe9".decode("utf-8", "surrogateescape"))
    pool = open_source(Request("imagefolder", SHAPE, str(root)))
    assert pool.class_names == ("ann\\xe9",)


def test_what_cannot_be_read_is_counted_and_a_link_to_above_is_not_followed(tmp_path: Path) -> None:
    root = album(tmp_path, 2)
    (root / "person 0" / "up").symlink_to(root)  # its pictures are another class's, too
    (root / "person 1" / "gone.png").symlink_to("nowhere")
    os.mkfifo(root / "person 1" / "pipe.png")
    loaded = read(root)
    assert np.bincount(loaded.labels).tolist() == [10, 10]
    assert loaded.left_out == (f"2 files that are no pictures (2 {SHUT})",)


def test_copies_are_said_where_they_leave_a_class_without_pictures(tmp_path: Path, tiny: Load) -> None:
    root = album(tmp_path / "faces", 3)
    (root / "person 3").symlink_to(root / "person 2")
    asked = faces(tiny, root, album(tmp_path / "public", 2, 4, 5000, "other {}"))
    with pytest.raises(ConfigError, match=r"class person 2 .*10 pictures stand under two classes"):
        prepare(tmp_path / "run", resolved(asked))


def test_classes_that_read_alike_are_named_before_the_run(tmp_path: Path, tiny: Load) -> None:
    root = album(tmp_path / "faces", 3)
    (root / "person 2").rename(root / "Person_1")
    asked = faces(tiny, root, album(tmp_path / "public", 2, 4, 5000, "other {}"))
    lines = dict(threat_model(prepare(tmp_path / "run", resolved(asked))))
    assert lines["Alike"] == "'Person_1' and 'person 1' are taken as different classes, though they read alike"


def test_a_path_means_the_same_wherever_the_run_goes_on(tmp_path: Path, monkeypatch: Any, tiny: Load) -> None:
    roots = []
    for place in ("one", "two"):
        album(tmp_path / place / "faces", first=len(roots))
        monkeypatch.chdir(tmp_path / place)
        experiment = tiny(data={"private_root": "faces"}, model={"weights": "w.safetensors"})
        assert experiment.model.weights == str(tmp_path / place / "w.safetensors")
        roots.append(experiment.data.private_root)
        assert open_source(Request("imagefolder", SHAPE, "faces")).about["request"]["root"] == roots[-1]
    assert roots == [str(tmp_path / "one" / "faces"), str(tmp_path / "two" / "faces")]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiny(data={"private_root": "~/one"}).data.private_root == str(tmp_path / "one")


def test_a_folder_that_changed_is_read_again_and_check_says_so(tmp_path: Path, tiny: Load) -> None:
    root, public = album(tmp_path / "faces"), album(tmp_path / "public", 2, 4, 5000, "other {}")
    before = open_source(Request("imagefolder", SHAPE, str(root)))
    run = prepare(tmp_path / "run", resolved(faces(tiny, root, public)))
    picture(77).save(root / "person 0" / "new.png")
    after = open_source(Request("imagefolder", SHAPE, str(root)))
    assert len(after.labels) == len(before.labels) + 1
    assert len(Run(run.path).pools["private"].labels) == len(before.labels)  # a run keeps what it was prepared with
    with console.capture() as captured:
        result = CliRunner().invoke(app, ["data", "check", "imagefolder", "--root", str(root), "--shape", "3x32x32"])
    assert result.exit_code == 0, result.output
    assert f"{before.path} was read before files of {root} changed" in captured.get()
    shutil.rmtree(before.path)
    with pytest.raises(DataError, match="files changed since this run was prepared"):
        _ = Run(run.path).pools


def test_a_flipped_byte_of_the_public_pool_is_noticed_on_resume(tiny: Load, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    table = resolved(tiny())
    file = prepare(tmp_path / "run", table).pools["public"].path / "images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.npy: altered"):
        prepare(tmp_path / "run", table)


# ---------------------------------------------------------------- classes


def test_classes_may_be_named_and_ranged(tmp_path: Path, tiny: Load) -> None:
    table = names_apart(
        {"population": {"victim_classes": ["0-2", 7, "Person 5"]}, "attacker": {"classes": ["person_1"]}}
    )
    population = parse(Population, table["population"], "population", "test")
    assert (population.victim_classes, population.victim_names) == ((7,), ("0-2", "Person 5"))
    root, public = album(tmp_path / "faces", 4), album(tmp_path / "public", 2, 4, 5000, "other {}")
    asked = {"population": {"victim_classes": ["person 2"]}, "attacker": {"classes": ["Person_2", "0-1"]}}
    table = resolved(faces(tiny, root, public, **asked))
    run = prepare(tmp_path / "run", table)
    assert run.population.victim_classes == (2,)
    assert run.table["attacker"]["classes"] == [0, 1, 2]
    assert "classes person 2" in dict(threat_model(run))["Victim"]
    assert prepare(tmp_path / "run", table).path == run.path  # the same configuration, spelled as before
    with pytest.raises(ConfigError, match="no class 'persn 2'; did you mean 'person 2'"):
        names_numbered(names_apart({"population": {"victim_classes": ["persn 2"]}}), run.class_names)
    for section, key in (("population", "victim_classes"), ("attacker", "classes")):
        beyond = {section: {key: [1, 4]}}
        with pytest.raises(ConfigError, match=rf"{section}\.{key}: \[4\] not among the 4 classes"):
            prepare(tmp_path / "beyond", resolved(faces(tiny, root, public, **beyond)))
    with pytest.raises(ConfigError, match="runs backwards"):
        tiny(population={"victim_classes": ["3-1"]})


@pytest.mark.parametrize(
    ("known", "asked", "numbers"),
    [
        (("0-2", "25-32", "4-6"), ["25-32"], [1]),  # ages: no range is possible
        (("0-2", "25-32", "4-6"), [0, "4-6"], [0, 2]),
        (("a", "b", "c"), ["0-1"], [0, 1]),
        (("a", "0_1", "c"), ["0-1"], [0, 1]),  # a name is meant as it is written
        (("a", "b", "0-1"), ["0-1"], r"'0-1' is the name of class 2, and a range.*\[0, 1\]"),
        (("a", "b", "c"), ["1-3"], r"'1-3' goes beyond the 3 classes"),
        (("a", "b", "c"), ["0-9999999"], r"goes beyond"),
    ],
)
def test_a_class_may_be_called_like_a_range(known: tuple[str, ...], asked: list[Any], numbers: Any) -> None:
    table = names_apart({"population": {"victim_classes": asked}})
    if isinstance(numbers, list):
        assert names_numbered(table, known)["population"] == {"victim_classes": numbers, "victim_names": []}
    else:
        with pytest.raises(ConfigError, match=numbers):
            names_numbered(table, known)


def test_a_picture_under_two_names_belongs_to_nobody(tmp_path: Path, tiny: Load) -> None:
    root, public = album(tmp_path / "faces"), album(tmp_path / "public", 2, 4, 5000, "other {}")
    shutil.copy(root / "person 0" / "03.png", root / "person 1" / "copy.png")
    run = prepare(tmp_path / "run", resolved(faces(tiny, root, public)))
    copies = run.split[run.split["sha256"].duplicated(keep=False)]
    assert copies["part"].tolist() == ["unused", "unused"]
    assert copies["client"].tolist() == [-1, -1]
    victims = run.split[run.split["label"] == 0]
    assert set(victims.loc[victims["part"] == "train", "client"]) == {run.population.victim}
    assert "1 pictures that stand under two classes (2 files)" in dict(threat_model(run))["Left out"]


def test_a_class_without_an_image_for_every_part_is_refused_by_name(tmp_path: Path, tiny: Load) -> None:
    root, public = album(tmp_path / "faces"), album(tmp_path / "public", 2, 4, 5000, "other {}")
    for path in (root / "person 1").glob("*.png"):
        picture(1).save(path)  # ten times the same
    with pytest.raises(ConfigError, match=r"class person 1 \(10 images\) has none for"):
        prepare(tmp_path / "run", resolved(faces(tiny, root, public)))
    with pytest.raises(ConfigError, match=r"class person . \(. images\) has none for.*private_limit"):
        prepare(tmp_path / "run", resolved(faces(tiny, root, public, data={"private_limit": 7})))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- refusals before any work


def test_a_network_that_cannot_train_is_refused_before_anything_is_written(tiny: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'training.batch_size' is 1, and model 'mcnn' cannot train on one image"):
        tiny(training={"batch_size": 1})
    tiny(training={"batch_size": 1}, model={"name": "mcnn_gn"})
    lonely = {"clients": 40, "victim_classes": [0]}
    table = resolved(tiny(data={"private_limit": 100}, population=lonely))
    with pytest.raises(ConfigError, match="would hold a single image each, and model 'mcnn' cannot train on one"):
        prepare(tmp_path / "run", table)
    assert not (tmp_path / "run").exists()


def test_bfloat16_weights_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    network = build("mcnn", 5, 0.1, seed=0)
    file = tmp_path / "half.safetensors"
    save_file({name: value.contiguous().bfloat16() for name, value in network.named_parameters()}, file)
    weights, _ = load_weights(file)
    expected = network.head.weight.detach().bfloat16().float()  # type: ignore[union-attr,operator]
    assert torch.equal(torch.from_numpy(weights["head.weight"]), expected)
    config = tmp_path / "marked.toml"
    config.write_bytes(b"\xef\xbb\xbfextends = 'quickstart'\nname = 'marked'\n")
    assert load_experiment(str(config), []).name == "marked"
