"""The prior zoo: taken whatever the seed, cached like any prior, refused when altered, off on request; progress."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from attack_bench import CPU, TINY, attack, public
from rich.console import Console

from attacker.priors import shipped, wgan_gp
from attacker.priors.prior import Prior, prior_path
from attacker.priors.shipped import Shipped, zoo
from attacker.target import PublicSet
from fedinverse.data import Request, open_source
from fedinverse.errors import IntegrityError
from fedinverse.storage import file_sha256, load_weights, save_weights, to_weights, weights_sha256
from report import console as consoles

SETTINGS = wgan_gp.WganGpSettings(**TINY["gmi"]["prior"])
IMAGES = replace(public(), recipe="drawn/24")


def prior(seed: int, images: PublicSet = IMAGES, **settings: object) -> Prior:
    return attack("gmi", {"prior": TINY["gmi"]["prior"] | settings}).prior(None, images, seed, CPU)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shipped]:
    """A zoo of one, in a cache that is still empty."""
    trained = prior(5, replace(IMAGES, recipe=""))
    weights, metadata = load_weights(prior_path(trained.name, trained.key))
    key = "5" * 64
    half = {name: array.astype("float16") if array.dtype == "float32" else array for name, array in weights.items()}
    save_weights(tmp_path / "tiny-32.safetensors", half, metadata | {"key": key})
    listed = Shipped(
        name="tiny-32",
        prior=wgan_gp.WganGp.name,
        version=wgan_gp.WganGp.version,
        recipe=IMAGES.recipe,
        shape=(1, 32, 32),
        settings=SETTINGS.model_dump(exclude={"shipped", "precision"}),
        seed=5,
        key=key,
        sha256=file_sha256(tmp_path / "tiny-32.safetensors"),
        licence="Apache-2.0",
        kid=0.5,
        command="fedinverse prior train",
    )
    (tmp_path / "zoo.json").write_text(json.dumps([asdict(listed)]))
    monkeypatch.setattr(shipped, "ZOO", tmp_path)
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    zoo.cache_clear()
    yield listed
    zoo.cache_clear()


def test_a_shipped_prior_is_taken_whatever_the_seed(entry: Shipped) -> None:
    one, other = prior(0), prior(1)
    assert one.key == other.key == entry.key
    assert prior_path(entry.prior, entry.key).read_bytes() == entry.path.read_bytes()
    assert weights_sha256(to_weights(one.generator)) == weights_sha256(to_weights(other.generator))
    assert next(one.generator.parameters()).dtype == torch.float32
    assert one.critic is not None


@pytest.mark.parametrize("change", [{"shipped": False}, {"steps": 2}])
def test_another_one_is_trained_when_asked_for(entry: Shipped, change: dict[str, object]) -> None:
    assert entry.key not in {prior(0, **change).key, prior(0, replace(IMAGES, recipe="drawn/25")).key}
    assert prior(0, **change).key != prior(1, **change).key


def test_whether_a_prior_is_there_is_known_without_training_it(entry: Shipped) -> None:
    def there(seed: int, kind: str = "gmi", **settings: object) -> bool:
        return attack(kind, {"prior": TINY[kind]["prior"] | settings}).has_prior(IMAGES, seed)

    assert there(7)  # it comes with the package, for whatever seed
    assert not there(7, shipped=False)
    assert not there(7, precision="tf32")  # it was trained in fp32
    prior(7, shipped=False)
    assert there(7, shipped=False)
    assert not there(8, shipped=False)
    assert not there(7, "kedmi")  # trained against every captured model


def test_an_altered_one_is_refused(entry: Shipped) -> None:
    content = bytearray(entry.path.read_bytes())
    content[-1] ^= 1
    entry.path.write_bytes(content)
    with pytest.raises(IntegrityError, match=re.escape(str(entry.path))):
        prior(0)
    assert not prior_path(entry.prior, entry.key).exists()
    prior(0, shipped=False)


def test_drawn_images_have_a_recipe_and_read_ones_have_none(tmp_path: Path) -> None:
    from PIL import Image

    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (32, 32), 9).save(tmp_path / name / "1.png")
    drawn = [open_source(Request("glyphs", (1, 32, 32), "", 60, seed)) for seed in (0, 1)]
    assert drawn[0].path != drawn[1].path
    assert {pool.recipe for pool in drawn} == {"glyphs/60"}
    assert open_source(Request("imagefolder", (3, 32, 32), str(tmp_path), 0, 0)).recipe == ""


def test_every_shipped_prior_is_whole() -> None:
    for entry in zoo():
        assert file_sha256(entry.path) == entry.sha256
        assert entry.path.stat().st_size <= 3 * 2**20
        assert entry.path.with_suffix(".png").exists()
        weights, metadata = load_weights(entry.path)
        assert metadata["key"] == entry.key
        assert {name.partition(".")[0] for name in weights} == {"generator", "critic"}
        whole = wgan_gp.WganGpSettings(**entry.settings)
        assert entry.settings == whole.model_dump(exclude={"shipped", "precision"})
        assert whole.precision == "fp32"


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(consoles, "console", Console(file=file, width=120))
        with consoles.progress_bar() as bar:
            now = 1000.0
            monkeypatch.setattr(bar, "get_time", lambda: now)
            task = bar.add_task("training", total=100)
            for step in range(1, 31):
                now += 10.0
                bar.update(task, completed=step)
    lines = (tmp_path / "log").read_text().split("\n")
    said = [line.strip() for line in lines if line.strip()]
    assert len(said) == 5
    assert said[0] == "training: 6 of 100, about 0:15:40 left"
