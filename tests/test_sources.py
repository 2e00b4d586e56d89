"""Sources: synthfaces, the CelebA path on real files, the other loaders on small made-up files, damage."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fedinverse.data import Pool, Request, glyphs, open_source, source_names, source_of
from fedinverse.data import cifar10 as cifar
from fedinverse.data.celeba import write_celeba_layout
from fedinverse.data.portrait import CIRCUMSTANCES, TRAITS, draw
from fedinverse.data.source import Images
from fedinverse.data.synthfaces import VIEWS, load, photograph
from fedinverse.errors import ConfigError, DataError

FACES = (3, 64, 64)
SMALL = (3, 32, 32)
DIGITS = (1, 32, 32)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))


def names_of(pool: Pool) -> set[str]:
    return {pool.class_names[label] for label in pool.labels}


# ---------------------------------------------------------------- synthfaces


@pytest.fixture(scope="module")
def faces() -> Images:
    return load(Request("synthfaces", FACES, limit=4 * VIEWS))


def test_synthfaces_have_30_views_of_each_person(faces: Images) -> None:
    assert faces.images.shape == (120, 3, 64, 64)
    assert faces.images.dtype == np.uint8
    assert np.bincount(faces.labels).tolist() == [30] * 4
    assert len(set(faces.class_names)) == 4


def test_synthfaces_are_deterministic_and_do_not_depend_on_the_limit(faces: Images) -> None:
    again = load(Request("synthfaces", FACES, limit=4 * VIEWS))
    fewer = load(Request("synthfaces", FACES, limit=VIEWS + 7))
    assert np.array_equal(again.images, faces.images)
    assert np.array_equal(fewer.images, faces.images[: VIEWS + 7])
    assert fewer.class_names == faces.class_names[:2]


def test_synthfaces_of_another_seed_or_population_are_other_people(faces: Images) -> None:
    other_seed = load(Request("synthfaces", FACES, limit=VIEWS, seed=1))
    public = source_of("synthfaces_public").load(Request("synthfaces_public", FACES, limit=VIEWS))
    for others in (other_seed, public):
        assert not set(others.class_names) & set(faces.class_names)
        assert not np.array_equal(others.images, faces.images[:VIEWS])


def test_people_differ_more_between_than_within(faces: Images) -> None:
    # Fisher's ratio of the mean face: views vary, but the person shows.
    pixels = faces.images.reshape(4, VIEWS, -1).astype(np.float32) / 255
    between = pixels.mean(1).var(0).mean()
    within = pixels.var(1).mean() / VIEWS
    assert between > 4 * within
    assert pixels.var(1).mean() > 0.01  # pose, light, expression and background do vary


def test_every_trait_and_circumstance_shows() -> None:
    def numbers(ranges: dict[str, tuple[float, float]], count: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(6)
        return {name: torch.rand(count, generator=random) * (high - low) + low for name, (low, high) in ranges.items()}

    count = 24
    person, moment = numbers(dict(TRAITS), count), numbers(dict(CIRCUMSTANCES), count)
    plain = draw(person, moment, 32, 32, 2 / 32)
    assert plain.shape == (count, 3, 32, 32)
    assert plain.min() >= 0
    assert plain.max() <= 1
    silent = []
    for table, ranges in ((person, TRAITS), (moment, CIRCUMSTANCES)):
        for name, (low, high) in ranges.items():
            mirrored = table | {name: low + high - table[name]}
            changed = (
                draw(mirrored, moment, 32, 32, 2 / 32) if table is person else draw(person, mirrored, 32, 32, 2 / 32)
            )
            if torch.equal(changed, plain):
                silent.append(name)
    assert not silent


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 48), (3, 16, 16)])
def test_synthfaces_refuse_other_shapes(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="square RGB images of at least 32 pixels"):
        load(Request("synthfaces", shape, limit=30))


def test_a_thousand_people_are_the_default() -> None:
    # The first and the last image of the default population, without drawing the 30,000.
    rows = np.array([0, 29_999])
    images = photograph(rows, "synthface", 0, height=32, width=32, pixel=2 / 32)
    assert images.shape == (2, 3, 32, 32)
    assert images.std() > 20


# ---------------------------------------------------------------- CelebA


@pytest.fixture(scope="module")
def celeba_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_celeba_layout(tmp_path_factory.mktemp("celeba"), 4 * VIEWS)


def test_celeba_layout_round_trip(celeba_root: Path, faces: Images) -> None:
    with Image.open(celeba_root / "img_align_celeba" / "000001.jpg") as picture:
        assert picture.size == (178, 218)
    private = open_source(Request("celeba", FACES, str(celeba_root)))
    public = open_source(Request("celeba_public", FACES, str(celeba_root)))
    assert private.images.shape == public.images.shape == (60, 3, 64, 64)
    assert not names_of(private) & names_of(public)
    assert len(names_of(private) | names_of(public)) == 4
    # Crop 108 and resize 64 give back the picture that synthfaces draws at 64 pixels, JPEG and grain apart.
    listed = [line.split() for line in (celeba_root / "identity_CelebA.txt").read_text().splitlines()]
    for pool in (private, public):
        for label, name in enumerate(pool.class_names):
            number = int(name.removeprefix("celeba "))
            drawn = faces.images[faces.labels == number - 1].astype(np.float32)
            loaded = pool.images[pool.labels == label].astype(np.float32)
            distance = np.abs(loaded[:, None] - drawn[None]).mean((2, 3, 4))
            assert sorted(distance.argmin(1)) == list(range(VIEWS))  # every picture finds its own
            assert distance.min(1).max() < 10  # of 255; the next nearest view is 20 away
            assert sum(person == str(number) for _, person in listed) == VIEWS


def test_celeba_private_list_is_seeded_and_limits_leave_out_whole_people(tmp_path: Path) -> None:
    root = blank_celeba(tmp_path, people=12, each=20)
    chosen = [names_of(open_source(Request("celeba", SMALL, str(root), seed=seed))) for seed in range(4)]
    assert all(len(people) == 6 for people in chosen)
    assert len(set(map(frozenset, chosen))) > 1
    limited = open_source(Request("celeba", SMALL, str(root), limit=70))
    assert np.bincount(limited.labels).tolist() == [20, 20, 20]
    assert names_of(limited) < chosen[0]
    public = open_source(Request("celeba_public", SMALL, str(root), limit=50))
    assert len(public.labels) == 50
    assert not names_of(public) & chosen[0]
    with pytest.raises(ConfigError, match=r"leaves 1 people of 'celeba'; set data\.private_limit to 40"):
        open_source(Request("celeba", SMALL, str(root), limit=30))


def test_celeba_takes_the_published_lists(tmp_path: Path) -> None:
    root = blank_celeba(tmp_path, people=8, each=20)
    (root / "trainset.txt").write_text("000001.png 0\n000021.png 1\n")
    (root / "celeba_testset.txt").write_text("000041.png 2\n")
    private = open_source(Request("celeba", SMALL, str(root)))
    assert private.class_names == ("celeba 1", "celeba 2", "celeba 3")
    assert not names_of(private) & names_of(open_source(Request("celeba_public", SMALL, str(root))))
    # The files' class numbers are ours, so that a published checkpoint's logits stand where its labels say.
    (root / "trainset.txt").write_text("000001.png 2\n000021.png 0\n000022.png 0\n")
    (root / "celeba_testset.txt").write_text("000041.png 1\n")
    renumbered = open_source(Request("celeba", SMALL, str(root), seed=2))
    assert renumbered.class_names == ("celeba 2", "celeba 3", "celeba 1")
    for wrong, said in (
        ("000001.png 0\n000021.png 0\n", "class 0 is celeba 2, and celeba 1 before"),
        ("000001.png 0\n000021.png 3\n", "classes are not 0 to 2"),
        ("000001.png 0\n000021.png\n", "line 2 is not 'file class'"),
    ):
        (root / "trainset.txt").write_text(wrong)
        with pytest.raises(DataError, match=said):
            open_source(Request("celeba", SMALL, str(root), seed=3))
    (root / "trainset.txt").write_text("999999.png 0\n")
    with pytest.raises(DataError, match=r"lists 999999\.png"):
        open_source(Request("celeba", SMALL, str(root), seed=1))


def test_damaged_celeba_is_refused(tmp_path: Path) -> None:
    root = blank_celeba(tmp_path, people=8, each=20)
    request = Request("celeba_public", SMALL, str(root))
    pictures = root / "img_align_celeba"
    whole = (pictures / "000001.jpg").read_bytes()
    listing = (root / "identity_CelebA.txt").read_text()

    (pictures / "000001.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 160 listed pictures are missing, first 000001\.jpg"):
        open_source(request)
    for number in range(1, 161):
        (pictures / f"{number:06d}.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable picture"):
        open_source(request)
    for number in range(1, 161):
        Image.new("RGB", (128, 128)).save(pictures / f"{number:06d}.jpg")
    with pytest.raises(DataError, match="aligned CelebA pictures are 178x218"):
        open_source(request)
    (root / "identity_CelebA.txt").write_text(listing + "000161.jpg\n")
    with pytest.raises(DataError, match="line 161 is not 'file identity'"):
        open_source(request)
    (root / "identity_CelebA.txt").write_text("".join(listing.splitlines(keepends=True)[:40]))
    with pytest.raises(DataError, match="2 people have 20 images or more; at least 4 are needed"):
        open_source(request)


def blank_celeba(tmp_path: Path, people: int, each: int) -> Path:
    """Write a CelebA directory of plain grey pictures, quickly."""
    root = tmp_path / "blank"
    (root / "img_align_celeba").mkdir(parents=True)
    lines = []
    for row in range(people * each):
        grey = Image.new("RGB", (178, 218), (row % 256,) * 3)
        grey.save(root / "img_align_celeba" / f"{row + 1:06d}.jpg")
        lines.append(f"{row + 1:06d}.jpg {row // each + 1}\n")
    (root / "identity_CelebA.txt").write_text("".join(lines))
    return root


# ---------------------------------------------------------------- pictures in directories


def write_people(root: Path, people: dict[str, int], size: tuple[int, int]) -> Path:
    random = np.random.default_rng(0)
    for name, count in people.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:04d}.png")
    return root


def test_lfw_and_facescrub_share_one_rule_and_one_spelling(tmp_path: Path) -> None:
    people = {f"Person_{letter}": 20 for letter in "ABCD"} | {"Rare_One": 2}
    lfw = write_people(tmp_path / "lfw_funneled", people, (250, 250)).parent
    spaced = {f"actors/Person {letter}/face": 20 for letter in "ABCD"} | {"actresses/Rare One": 2}
    scrub = write_people(tmp_path / "scrub", spaced, (40, 44))
    for source, root in (("lfw", lfw), ("facescrub", scrub)):
        private = open_source(Request(source, SMALL, str(root)))
        public = open_source(Request(f"{source}_public", SMALL, str(root)))
        assert len(names_of(private)) == 2
        assert names_of(private) | names_of(public) == {*(f"person {x}" for x in "abcd"), "rare one"}
        assert not names_of(private) & names_of(public)


def test_ffhq_is_one_class_and_obeys_its_limit(tmp_path: Path) -> None:
    root = write_people(tmp_path, {"thumbnails128x128/00000": 5}, (128, 128))
    pool = open_source(Request("ffhq", FACES, str(root), limit=3))
    assert pool.class_names == ("ffhq",)
    assert pool.images.shape == (3, 3, 64, 64)
    with Image.open(root / "thumbnails128x128/00000/0000.png") as picture:
        cropped = picture.crop((20, 20, 108, 108)).resize((64, 64), Image.Resampling.BILINEAR)
    everything = open_source(Request("ffhq", FACES, str(root)))
    assert np.array_equal(everything.images[0], np.asarray(cropped).transpose(2, 0, 1))


def test_imagefolder_names_classes_by_directory(tmp_path: Path) -> None:
    root = write_people(tmp_path / "mine", {"cat/deep": 2, "dog": 3, ".hidden": 1}, (50, 40))
    Image.new("L", (33, 40)).save(root / "dog" / "grey.png")
    (root / "empty").mkdir()
    pool = open_source(Request("imagefolder", SMALL, str(root)))
    assert pool.class_names == ("cat", "dog")
    assert np.bincount(pool.labels).tolist() == [2, 4]
    limited = open_source(Request("imagefolder", SMALL, str(root), limit=4))
    assert limited.class_names == ("cat", "dog")
    assert len(limited.labels) == 4
    with pytest.raises(ConfigError, match="holds RGB pictures; the model takes 1x32x32"):
        open_source(Request("imagefolder", DIGITS, str(root)))
    (root / "dog" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.jpg: not a readable picture"):
        open_source(Request("imagefolder", SMALL, str(root), seed=1))


def test_a_picture_smaller_than_its_crop_is_refused(tmp_path: Path) -> None:
    root = write_people(tmp_path / "lfw", {f"P{x}": 20 for x in "ABCD"}, (100, 100))
    with pytest.raises(DataError, match="100x100 pixels, smaller than the crop of 108"):
        open_source(Request("lfw", SMALL, str(root)))


# ---------------------------------------------------------------- idx and binary files


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, split: str, labels: list[int]) -> NDArray[np.uint8]:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.array(labels, np.uint8))))
    return images


def test_emnist_letters_are_upright_and_named_like_glyphs(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "EMNIST" / "raw", "emnist-letters-train", [1, 26, 3])
    pool = open_source(Request("emnist", DIGITS, str(tmp_path)))
    assert [pool.class_names[label] for label in pool.labels] == ["A", "Z", "C"]
    assert np.array_equal(pool.images[0, 0, 2:30, 2:30], images[0].T)
    write_idx(tmp_path / "EMNIST" / "raw", "emnist-letters-train", [0, 1])
    with pytest.raises(DataError, match="labels 1 to 26"):
        open_source(Request("emnist", DIGITS, str(tmp_path), seed=1))


def test_digits_fill_a_larger_square_by_a_border_or_stretched() -> None:
    asked = Request("mnist", (1, 32, 32), limit=50)
    bordered, stretched = open_source(asked), open_source(replace(asked, fit="stretch"))
    assert not bordered.images[:, :, :2].any()
    digits = torch.tensor(bordered.images[:, :, 2:30, 2:30]).float()
    expected = torch.nn.functional.interpolate(digits, size=(32, 32), mode="bilinear").numpy()
    assert np.abs(stretched.images.astype(np.float32) - expected).max() < 2
    assert stretched.images.any(1).any(1).sum() > bordered.images.any(1).any(1).sum()  # columns with ink


def test_mnist59_keeps_the_digits_names(tmp_path: Path) -> None:
    images = write_idx(tmp_path, "train", [9, 0, 5, 4, 7])
    pool = open_source(Request("mnist59", DIGITS, str(tmp_path)))
    assert [pool.class_names[label] for label in pool.labels] == ["9", "5", "7"]
    assert np.array_equal(pool.images[1, 0, 2:30, 2:30], images[2])
    offline = open_source(Request("mnist59", DIGITS))
    assert names_of(offline) == set("56789")
    assert len(offline.labels) == 2500
    lower = open_source(Request("mnist04", DIGITS, str(tmp_path)))
    assert [lower.class_names[label] for label in lower.labels] == ["0", "4"]


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", [1, 2, 3])
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte.gz"
    whole, packed = images.read_bytes(), labels.read_bytes()
    request = Request("mnist", DIGITS, str(tmp_path))
    damages = [
        (images, whole[:-1], r"holds 2351 bytes where its header says \(3, 28, 28\)"),
        (images, whole + b"\0", "holds 2353 bytes"),
        (images, whole[:6], "header says"),
        (images, b"", "not an IDX file"),
        (images, b"\0\0\x0d" + whole[3:], "not an IDX file of unsigned bytes"),
        (labels, packed[:-6], "cannot be read"),
        (labels, b"no gzip", "cannot be read"),
        (labels, gzip.compress(idx_bytes(np.array([1], np.uint8))), "3 images but 1 labels"),
    ]
    for path, content, message in damages:
        images.write_bytes(whole)
        labels.write_bytes(packed)
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_source(request)


def test_cifar10_reads_the_binary_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "RECORDS", 10)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(2).integers(0, 256, (10, 3073), dtype=np.uint8)
    records[:, 0] = range(10)
    for name in cifar.FILES:
        (folder / name).write_bytes(records.tobytes())
    pool = open_source(Request("cifar10", SMALL, str(tmp_path)))
    assert pool.images.shape == (60, 3, 32, 32)
    assert np.array_equal(pool.images[7], records[7, 1:].reshape(3, 32, 32))
    assert pool.class_names[3] == "cat"
    assert open_source(Request("cifar10", FACES, str(tmp_path))).images.shape == (60, 3, 64, 64)
    with pytest.raises(ConfigError, match="the model takes 1x32x32"):
        open_source(Request("cifar10", DIGITS, str(tmp_path)))
    (folder / cifar.FILES[2]).write_bytes(records.tobytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: 30729 bytes where 30730"):
        open_source(Request("cifar10", SMALL, str(tmp_path), seed=1))
    records[0, 0] = 10
    (folder / cifar.FILES[2]).write_bytes(records.tobytes())
    with pytest.raises(DataError, match="label 10 is not one of 0 to 9"):
        open_source(Request("cifar10", SMALL, str(tmp_path), seed=1))


# ---------------------------------------------------------------- all of them

OFFLINE = {"mnist", "mnist04", "mnist59", "fmnist", "glyphs", "glyphs_unlike_digits", "synthfaces", "synthfaces_public"}


@pytest.mark.parametrize("name", sorted(set(source_names()) - OFFLINE))
def test_absent_data_says_how_to_obtain_it(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    request = Request(name, FACES if source.channels == 3 else DIGITS)
    with pytest.raises(DataError) as without_root:
        open_source(request)
    with pytest.raises(DataError) as empty_root:
        open_source(replace(request, root=str(tmp_path / "nothing")))
    for error in (without_root, empty_root):
        assert name in str(error.value)
        assert "root" in source.obtain
        assert source.obtain in str(error.value)


def test_pools_carry_licence_origin_and_verifiable_hashes() -> None:
    pool = open_source(Request("synthfaces", SMALL, limit=30))
    pool.verify()
    assert "no real person" in str(pool.about["licence"])
    labels = pool.path / "labels.npy"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\1")
    with pytest.raises(DataError, match="altered since it was prepared"):
        pool.verify()


def test_glyphs_unlike_digits_leave_out_the_look_alikes() -> None:
    pool = open_source(Request("glyphs_unlike_digits", DIGITS, limit=46))
    assert not set(pool.class_names) & glyphs.LOOK_ALIKES
    assert set(pool.class_names) | glyphs.LOOK_ALIKES == set(glyphs.LETTERS)
    assert {"K", "M", "x"} <= set(pool.class_names)
    assert len(np.unique(pool.labels)) == len(pool.class_names)
