"""The commands that need no run: attack a weights file, train and show priors, list, check and prepare data."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from attacker.inversion import Inversion
from fedinverse.errors import ConfigError, DataError, FedInverseError, IntegrityError, StageError
from fedinverse.layout import PRIOR_ONLY
from fedinverse.models import build
from fedinverse.storage import load_weights, save_weights, to_weights
from pipeline.cli import attack, data, prior
from pipeline.cli.pictures import save_sheet
from pipeline.cli.weights import metadata_of, network_of
from report.console import console

ROOT = Path(__file__).parent.parent
TINY = [
    *("--set", "iterations=2", "--set", "prior.steps=1", "--set", "prior.width=0.1"),
    *("--set", "prior.critic_steps=1", "--set", "prior.batch_size=4", "--public-limit", "60"),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path_factory.getbasetemp() / "commands-cache"))
    monkeypatch.setattr(console, "width", 200)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*arguments: object) -> str:
    """Run a command; return what it printed, raise what it raised."""
    app = typer.Typer()
    app.command()(attack.attack)
    app.add_typer(prior.app, name="prior")
    app.add_typer(data.app, name="data")
    with console.capture() as captured:
        result: Result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=True)
    if isinstance(result.exception, FedInverseError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return captured.get()


def capture(path: Path, number: int | None, *, described: bool = True, model: str = "mcnn", seed: int = 1) -> Path:
    """Write a weights file, as the capture mod does or as someone else would."""
    about: dict[str, str | int | float] = {"model": model, "width": 0.1, "classes": 4} if described else {}
    weights = to_weights(build(model, 4, 0.1, seed=seed + (number or 0)))
    save_weights(path, weights, about if number is None else about | {"model-round": number})
    return path


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for number in (1, 2, 5):
        capture(tmp_path / "spool" / f"round-{number:04d}.safetensors", number)
    return tmp_path / "spool"


def finished(out: Path) -> list[Inversion]:
    return [Inversion(path.parent) for path in sorted(out.glob("*/*/about.json"))]


# ---------------------------------------------------------------- attack


def test_attack_inverts_the_rounds_of_a_spool_once(spool: Path, tmp_path: Path) -> None:
    words = ("attack", spool, "--kind", "gmi", *TINY, "--restarts", "2", "--classes-to-invert", "0,2-3")
    said = run(*words, "--rounds", "1,5", "--out", tmp_path / "out")
    done = finished(tmp_path / "out")
    assert {inversion.about.model_round for inversion in done} == {1, 5}
    for inversion in done:
        reconstructions = inversion.load()
        assert reconstructions.images.shape == (6, 1, 32, 32)
        assert reconstructions.labels.tolist() == [0, 0, 2, 2, 3, 3]
        assert inversion.load(PRIOR_ONLY).labels.tolist() == reconstructions.labels.tolist()
        assert Image.open(inversion.path / "reconstructions.png").size == (2 * 32 * 2, 3 * 32 * 2)
        assert str(inversion.path) in said
    written = {inversion.path: (inversion.path / "about.json").stat().st_mtime_ns for inversion in done}
    again = run(*words, "--rounds", "every", "--out", tmp_path / "out")
    assert "round 1: gmi inverted it already" in again
    assert len(finished(tmp_path / "out")) == 3
    assert all((path / "about.json").stat().st_mtime_ns == time for path, time in written.items())


def test_attack_on_a_file_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    path = capture(tmp_path / "theirs.safetensors", None, described=False)
    with pytest.raises(ConfigError, match="does not say its model and classes; give --model and --classes"):
        run("attack", path, "--kind", "gmi")
    network = ("--model", "mcnn", "--width", "0.1", "--classes", "4")
    said = run("attack", path, "--kind", "gmi", *TINY, *network, "--restarts", "1", "--out", tmp_path / "out")
    assert "theirs.safetensors" in said
    (inversion,) = finished(tmp_path / "out")
    assert inversion.about.model_round == -1
    assert inversion.load().labels.tolist() == [0, 1, 2, 3]


def test_attack_takes_a_config_s_attack(spool: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[attacks.one]\nkind = "kedmi"\n[attacks.two]\nkind = "gmi"\niterations = 1\n')
    with pytest.raises(ConfigError, match=r"describes 2 attacks \(one, two\); choose one with --attack"):
        run("attack", spool, "--config", config)
    with pytest.raises(ConfigError, match="no attack 'tow'; did you mean 'two'"):
        run("attack", spool, "--config", config, "--attack", "tow")
    small = ("--restarts", "1", "--classes-to-invert", "1", "--out", tmp_path / "out")
    run("attack", spool, "--config", config, "--attack", "one", *TINY, *small)
    (inversion,) = finished(tmp_path / "out")
    assert inversion.path.parent.name == "one"
    assert inversion.about.attack == "kedmi"
    assert inversion.about.settings["iterations"] == 2


def test_attack_takes_a_run_directory(spool: Path, tmp_path: Path) -> None:
    place = tmp_path / "run" / "attacker" / "with_victim"
    place.mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    spool.rename(place / "captures")
    small = ("--restarts", "1", "--classes-to-invert", "1", "--out", tmp_path / "out")
    run("attack", tmp_path / "run", "--kind", "gmi", *TINY, *small)
    assert [inversion.about.model_round for inversion in finished(tmp_path / "out")] == [5]


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ((), ConfigError, "say which attack"),
        (("--kind", "gm"), ConfigError, "did you mean 'gmi'"),
        (("--kind", "gmi", "--set", "iteration=3"), ConfigError, "did you mean 'iterations'"),
        (("--kind", "gmi", "--config", "quickstart"), ConfigError, "say which attack"),
        (("--config", "quickstrat"), ConfigError, "did you mean 'quickstart'"),
        (("--kind", "gmi", "--rounds", "3"), StageError, r"\[3\].*only the models of rounds \[1, 2, 5\]"),
        (("--kind", "gmi", "--rounds", "soon"), ConfigError, "--rounds 'soon'"),
        (("--kind", "gmi", "--rounds", "new_best"), ConfigError, "images of the attacker's own"),
        (("--kind", "gmi", "--classes-to-invert", "4"), ConfigError, "class 4 cannot be inverted.*classes 0 to 3"),
        (("--kind", "gmi", "--classes-to-invert", "3-1"), ConfigError, "'3-1' is no number and no range"),
        (("--kind", "gmi", "--model", "scnn"), ConfigError, "--model is scnn, but .* says mcnn"),
        (("--kind", "gmi", "--classes", "5"), ConfigError, "--classes is 5"),
        (("--kind", "gmi", "--public", "synthfaces_public"), ConfigError, "3 channel.*1x32x32 are needed.*glyphs"),
        (("--kind", "gmi", "--public", "glyph"), ConfigError, "did you mean 'glyphs'"),
        (("--kind", "gmi", "--public", "emnist"), DataError, "emnist.*root"),
        (("--kind", "gmi", "--device", "gpu"), ConfigError, "--device 'gpu'"),
    ],
)
def test_attack_refuses_before_any_work(
    spool: Path, tmp_path: Path, words: tuple[str, ...], error: type[FedInverseError], said: str
) -> None:
    with pytest.raises(error, match=said):
        run("attack", spool, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_attack_refuses_files_that_are_no_weights(spool: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        run("attack", tmp_path / "nothing", "--kind", "gmi")
    pickled, zipped, torn = tmp_path / "old.pkl", tmp_path / "model.pth", tmp_path / "torn.safetensors"
    pickled.write_bytes(pickle.dumps({"weight": 1}))
    torch.save({"weight": torch.ones(2)}, zipped)
    torn.write_bytes((spool / "round-0001.safetensors").read_bytes()[:500])
    for path in (pickled, zipped):
        with pytest.raises(IntegrityError, match=r"is a pickle .* convert it once: safetensors"):
            run("attack", path, "--kind", "gmi")
    with pytest.raises(IntegrityError, match=r"torn\.safetensors: not a readable safetensors file"):
        run("attack", torn, "--kind", "gmi")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="holds no capture"):
        run("attack", tmp_path / "empty", "--kind", "gmi")
    network = ("--model", "lenet5", "--width", "0.1", "--classes", "4")
    strange = capture(tmp_path / "strange.safetensors", None, described=False)
    with pytest.raises(IntegrityError, match=r"strange\.safetensors is not 'lenet5' of width 0\.1 with 4 classes"):
        run("attack", strange, "--kind", "gmi", *network, "--public-limit", "60")


def test_a_header_that_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    for length in range(0, 256, 8):  # headers are padded to 8 bytes: one of these makes the file begin with 0x80
        path = tmp_path / f"{length}.safetensors"
        save_weights(path, {"a": np.zeros(1, np.float32)}, {"note": "x" * length})
        metadata_of(path)
    assert any(path.read_bytes()[0] == 0x80 for path in tmp_path.iterdir())


def test_attack_refuses_a_directory_of_different_networks(spool: Path) -> None:
    capture(spool / "round-0006.safetensors", 6, model="lenet5")
    with pytest.raises(ConfigError, match="different networks"):
        run("attack", spool, "--kind", "gmi", "--rounds", "every")
    capture(spool / "round-0007.safetensors", None)
    with pytest.raises(IntegrityError, match=r"round-0007.*does not say which round"):
        run("attack", spool, "--kind", "gmi")


def test_attack_needs_neither_ray_nor_flower(spool: Path, tmp_path: Path) -> None:
    words = list(map(str, ["attack", spool, "--kind", "gmi", *TINY, "--restarts", "1", "--out", tmp_path / "out"]))
    program = f"""
import sys, typer
absent = ("ray", "flwr", "flwr_datasets")
sys.modules.update(dict.fromkeys(absent))  # None: an import of it fails
from pipeline.cli import attack, data, prior
assert "torch" not in sys.modules, "help must not wait for torch"
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(attack.attack)
app.add_typer(prior.app, name="prior")
app.add_typer(data.app, name="data")
app({words!r}, standalone_mode=False)
for words in (["prior", "train", *{words[2:]!r}[:-4]], ["prior", "list"], ["data", "check", "glyphs"]):
    app(words, standalone_mode=False)
assert not [name for name, module in sys.modules.items() if module and name.split(".")[0] in absent]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(finished(tmp_path / "out")) == 1


# ---------------------------------------------------------------- prior


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "priors"


def test_prior_is_trained_listed_and_shown(own_cache: Path) -> None:
    assert "no prior is cached" in run("prior", "list")
    said = run("prior", "train", "--kind", "gmi", *TINY)
    (path,) = own_cache.glob("*.safetensors")
    name, _, key = path.stem.rpartition("-")
    assert f"{name} {key}: trained in" in said
    assert str(path.with_suffix(".png")) in said
    assert Image.open(path.with_suffix(".png")).size == (12 * 32 * 2, 8 * 32 * 2)
    assert run("prior", "train", "--kind", "gmi", *TINY) == said, "the cached one, and what it cost then"
    listed = run("prior", "list")
    for word in ("wgan-gp", key, "MiB", "gmi on glyphs 1x32x32"):
        assert word in listed
    output = run("prior", "show", key[:6])
    for word in ("'steps': 1", load_weights(path)[1]["key"], str(path.with_suffix(".png"))):
        assert word in output


def test_a_run_s_prior_has_no_picture_until_it_is_asked_for(own_cache: Path) -> None:
    run("prior", "train", "--kind", "gmi", *TINY)
    (path,) = own_cache.glob("*.safetensors")
    path.with_suffix(".png").unlink()
    path.with_suffix(".json").unlink()
    assert "settings   none: 'fedinverse prior train'" in run("prior", "show", path.stem.rpartition("-")[2])
    assert path.stem.rpartition("-")[2] in run("prior", "list")
    run("prior", "train", "--kind", "gmi", *TINY)
    assert path.with_suffix(".png").exists()


def test_a_prior_against_the_target_needs_it(spool: Path) -> None:
    with pytest.raises(ConfigError, match="'kedmi' trains its prior against the captured model; give it with --target"):
        run("prior", "train", "--kind", "kedmi", *TINY)
    with pytest.raises(ConfigError, match="is no file"):
        run("prior", "train", "--kind", "kedmi", *TINY, "--target", spool)
    said = run("prior", "train", "--kind", "kedmi", *TINY, "--target", spool / "round-0002.safetensors")
    assert "kplus1" in said


def test_prior_refuses_bad_input(own_cache: Path) -> None:
    for shape in ("32x32", "0x32x32", "1x32xa"):
        with pytest.raises(ConfigError, match="write it like 1x32x32"):
            run("prior", "train", "--kind", "gmi", "--shape", shape)
    with pytest.raises(ConfigError, match=r"1 channel\(s\) but images 3x64x64 are needed.*synthfaces_public"):
        run("prior", "train", "--kind", "gmi", "--shape", "3x64x64")
    with pytest.raises(ConfigError, match="square images of 32, 64 or 128 pixels"):
        run("prior", "train", "--kind", "gmi", "--shape", "1x40x40", "--public-limit", "60")
    with pytest.raises(ConfigError, match="none does"):
        run("prior", "show", "abc")
    assert not list(own_cache.glob("*.safetensors"))


# ---------------------------------------------------------------- data


def test_data_lists_every_source_with_how_to_obtain_it() -> None:
    listed = " ".join(run("data", "list").split())
    for word in ("celeba_public", "glyphs", "synthfaces", "mmlab.ie.cuhk.edu.hk", "channels", "how to obtain it"):
        assert word in listed


def test_data_is_prepared_pictured_and_checked(own_cache: Path) -> None:
    said = run("data", "prepare", "glyphs", "--limit", "104")
    (pool,) = (own_cache.parent / "data").glob("glyphs-*")
    assert "glyphs 1x32x32: 104 images, 52 classes" in said
    assert str(pool / "pictures.png") in said
    assert Image.open(pool / "pictures.png").size == (2 * 32 * 2, 12 * 32 * 2)
    checked = run("data", "check", "glyphs")
    assert "glyphs is there" in checked
    assert "1 prepared pool(s)" in checked
    labels = np.load(pool / "labels.npy")
    np.save(pool / "labels.npy", labels[::-1])
    with pytest.raises(DataError, match=r"labels\.npy: altered since it was prepared"):
        run("data", "check", "glyphs")


def test_data_prepares_a_directory_of_pictures(own_cache: Path, tmp_path: Path) -> None:
    for name, count in (("ann", 2), ("bob", 3)):
        (tmp_path / "people" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 48), (50 * number, 20, 90)).save(tmp_path / "people" / name / f"{number}.png")
    root = ("--root", tmp_path / "people")
    assert "imagefolder 3x32x32: 5 images, 2 classes" in run(
        "data", "prepare", "imagefolder", *root, "--shape", "3x32x32"
    )
    assert "5 images of 2 classes read" in run("data", "check", "imagefolder", *root)
    (tmp_path / "people" / "bob" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a readable picture"):
        run("data", "check", "imagefolder", *root)


@pytest.mark.parametrize("command", ["check", "prepare"])
def test_data_refuses_bad_input(own_cache: Path, command: str) -> None:
    with pytest.raises(DataError, match=r"celeba: .*download img_align_celeba\.zip"):
        run("data", command, "celeba")
    with pytest.raises(ConfigError, match="did you mean 'glyphs'"):
        run("data", command, "glyph")
    with pytest.raises(ConfigError, match="images 3x64x64 are needed"):
        run("data", command, "glyphs", "--shape", "3x64x64")
    with pytest.raises(ConfigError, match="holds 1x28x28 images"):
        run("data", command, "mnist", "--shape", "1x20x20")
    assert not (own_cache.parent / "data").exists()


# ---------------------------------------------------------------- pictures


def test_a_sheet_fills_short_rows_with_white_and_stops_somewhere(tmp_path: Path) -> None:
    rows = [torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4)]
    save_sheet(tmp_path / "sheet.png", rows, zoom=1)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (8, 8)
    assert pixels[4:, 4:].min() == 255
    assert pixels[:4].max() == pixels[4:, :4].max() == 0
    save_sheet(tmp_path / "sheet.png", [torch.zeros(30, 3, 4, 4)] * 150, zoom=1)
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape == (400, 48, 3)


def test_a_file_does_not_choose_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose metadata name code: it is imported if the command line names it too."""
    (tmp_path / "imported_here.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = "imported_here:Net?shape=1,32,32"
    path = capture(tmp_path / "theirs.safetensors", None, model="mcnn")
    weights, about = load_weights(path)
    save_weights(path, weights, {**about, "model": model})
    with pytest.raises(ConfigError, match="If you know that code, say so with --model"):
        run("attack", path, "--kind", "gmi", "--out", tmp_path / "out", *TINY)
    assert network_of(path, model, None, None).model == model
    with pytest.raises(SystemExit, match="imported"):
        build(model, 4)
