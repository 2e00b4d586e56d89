"""Published checkpoints: their names, their arrays under ours, what does not fit, what is no weights file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from fedinverse.errors import ConfigError, FedInverseError, IntegrityError
from fedinverse.models import build, spec_of
from fedinverse.models.published import convert, read_pickle, start_from
from fedinverse.models.shapes import size_of
from fedinverse.original import OriginalName
from fedinverse.run import prepare
from fedinverse.storage import load_weights, read_metadata, save_weights, to_weights
from pipeline.cli.main import app
from pipeline.experiment import resolved
from report.console import console

PUBLISHED = "mnist_MCNN_idd[1]_R[1]_C[0.1]_E[1]_B[10]_Acc[83.34].tar"


def command(*arguments: object) -> str:
    """Run a command; return what it printed, raise what it raised."""
    with console.capture() as captured:
        result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, FedInverseError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return captured.get()


# ---------------------------------------------------------------- names


def test_the_originals_names_are_parsed_and_written() -> None:
    known = OriginalName("mnist", "MCNN", True, 1, 0.1, 1, 10, 0.8334)
    assert OriginalName.parse(PUBLISHED) == known
    assert known.format() == PUBLISHED
    faces = OriginalName.parse("celeba_VGG16_idd[1]_R[10]_C[1.0]_E[50]_B[64]_Acc[71.37].tar")
    assert (faces.network, faces.round, faces.fraction, faces.accuracy) == ("VGG16", 10, 1.0, pytest.approx(0.7137))
    # Multiplied by 100 twice in the original, then cut.
    twice = OriginalName.parse("G_celeba_VGG16_idd[1]_R[1]_C[1.0]_E[30]_B[32]_Acc[6725.].tar.tar".removeprefix("G_"))
    assert twice.accuracy == pytest.approx(0.6725)
    assert OriginalName.parse(known.format(".safetensors")) == known
    with pytest.raises(ConfigError, match="is no checkpoint name of the original"):
        OriginalName.parse("mnist_MCNN_98.41.tar")


# ---------------------------------------------------------------- arrays


def published_mcnn(classes: int) -> nn.Module:
    """A network with the module names that KED-MI, BiDO and FedInverse publish."""

    def block(fan_in: int, fan_out: int, kernel: int, padding: int = 0) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(fan_in, fan_out, kernel, padding=padding), nn.BatchNorm2d(fan_out))

    network = nn.Module()
    network.layer1, network.layer2, network.layer3 = block(1, 6, 7, 1), block(6, 13, 5), block(13, 26, 5)
    network.fc_layer = nn.Linear(26, classes)
    return network


def saved(path: Path, table: Any) -> Path:
    torch.save(table, path)
    return path


def test_a_published_checkpoint_computes_the_same_under_our_names(tmp_path: Path) -> None:
    theirs = published_mcnn(5)
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    state["module.layer1.1.num_batches_tracked"] = torch.tensor(2.5)  # as FedInverse's averaging leaves it
    file = saved(tmp_path / PUBLISHED, {"state_dict": state})
    ours = convert(read_pickle(file), "mcnn", 0.1, str(file), backbone=False).network.eval()
    images = torch.rand(3, 1, 32, 32)
    hidden = images
    for number in (1, 2, 3):
        hidden = nn.functional.leaky_relu(theirs.eval().get_submodule(f"layer{number}")(hidden), 0.2)
        hidden = nn.functional.max_pool2d(hidden, 2) if number < 3 else hidden
    torch.testing.assert_close(ours(images), theirs.get_submodule("fc_layer")(hidden.flatten(1)))


def scnn_as_published(classes: int) -> nn.Module:
    """KED-MI's SCNN at a sixteenth of its width: the third convolution has no padding, the last two see 1x1."""

    def block(fan_in: int, fan_out: int, kernel: int, padding: int, pool: bool) -> list[nn.Module]:
        layers = [nn.Conv2d(fan_in, fan_out, kernel, padding=padding), nn.BatchNorm2d(fan_out), nn.LeakyReLU(0.2)]
        return [*layers, nn.MaxPool2d(2, 2)] if pool else layers

    plan = [(1, 4, 7, 1, True), (4, 4, 5, 0, True), (4, 8, 5, 0, False), (8, 16, 3, 1, False), (16, 32, 3, 1, False)]
    layers = [layer for row in plan for layer in block(*row)]
    network = nn.Module()
    network.feature, network.fc_layer = nn.Sequential(*layers), nn.Linear(32, classes)
    network.forward = lambda images: network.fc_layer(network.feature(images).flatten(1))  # type: ignore[method-assign]
    return network


def lenet_as_published(classes: int) -> nn.Module:
    """FedInverse's LeNet5: pooling and no activation."""
    network = nn.Module()
    network.features = nn.Sequential(nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2))
    network.classifier = nn.Sequential(nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes))
    network.forward = lambda images: network.classifier(network.features(images).flatten(1))  # type: ignore[method-assign]
    return network


def vgg_vib_as_published(classes: int) -> nn.Module:
    """BiDO's and FedInverse's VGG16 with a bottleneck, at a sixteenth of its width: no BatchNorm before the head."""
    layers: list[nn.Module] = []
    fan_in = 3
    for plan in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for channels in plan:
            layers += [nn.Conv2d(fan_in, channels // 16, 3, padding=1), nn.BatchNorm2d(channels // 16), nn.ReLU()]
            fan_in = channels // 16
        layers.append(nn.MaxPool2d(2))
    network, k = nn.Module(), 2 * fan_in
    network.feature, network.st_layer = nn.Sequential(*layers), nn.Linear(2 * k, 2 * k)
    network.fc_layer = nn.Linear(k, classes)
    network.forward = lambda images: network.fc_layer(network.st_layer(network.feature(images).flatten(1))[:, :k])  # type: ignore[method-assign]
    return network


@pytest.mark.parametrize(
    ("model", "width", "published"),
    [
        ("scnn", 1 / 16, scnn_as_published),
        ("lenet5_linear", 1.0, lenet_as_published),
        ("vgg16_vib", 1 / 16, vgg_vib_as_published),
    ],
)
def test_converted_weights_compute_what_they_computed(model: str, width: float, published: Any) -> None:
    theirs = published(5).train()
    shape = spec_of(model).input_shape
    for _ in range(3):  # statistics of its BatchNorm away from 0 and 1
        theirs(torch.rand(8, *shape))
    ours = convert(theirs.state_dict(), model, width, "a file", backbone=False).network.eval()
    images = torch.rand(4, *shape)
    torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)


def test_weights_are_not_put_where_they_compute_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no activations.*lenet5_linear"):
        convert(lenet_as_published(5).state_dict(), "lenet5", 1.0, "a file", backbone=False)
    stem = {"conv1.weight": torch.zeros(64, 3, 3, 3), "fc.weight": torch.zeros(5, 512)}
    with pytest.raises(ConfigError, match="resnet18_32"):
        convert(stem, "resnet18", 1.0, "a file", backbone=False)
    # A file says whose weights it holds; those of the linear network have the same shapes.
    file = tmp_path / "linear.safetensors"
    save_weights(file, to_weights(build("lenet5_linear", 5)), {"model": "lenet5_linear"})
    with pytest.raises(IntegrityError, match="weights of 'lenet5_linear', not of 'lenet5'"):
        start_from(build("lenet5", 5), "lenet5", file)


def renamed(model: str, width: float, rename: Callable[[str], str]) -> tuple[nn.Module, dict[str, Tensor]]:
    network = build(model, 7, width, seed=3)
    return network, {rename(name): value for name, value in network.state_dict().items()}


def vgg_of_bido(name: str) -> str:
    """BiDO's VGG16 with hidden layers: five sequences, bn, fc_layer."""
    for number in range(5):
        name = name.replace(f"blocks.{number}.", f"layer{number + 1}.")
    return name.replace("pool.1.", "bn.").replace("head.", "fc_layer.")


def vgg_of_torchvision(name: str) -> str:
    """Its plain VGG16: torchvision's one sequence."""
    parts = name.split(".")
    if parts[0] == "blocks":
        start = (0, 7, 14, 24, 34)[int(parts[1])]
        return ".".join(["feature", str(start + int(parts[2])), *parts[3:]])
    return vgg_of_bido(name)


def face_of_kedmi(name: str) -> str:
    """KED-MI's FaceNet64: face.evoLVe's backbone as feature, its own output layer and classifier."""
    parts = name.split(".")
    if parts[0] == "pool":
        return ".".join(["output_layer", *parts[1:]])
    if parts[0] == "head":
        return ".".join(["fc_layer", *parts[1:]])
    stage, place = int(parts[1]), int(parts[2])
    if stage == 0 and place < 3:
        return ".".join(["feature.input_layer", *parts[2:]])
    unit = (0, 3, 7, 21)[stage] + place - (3 if stage == 0 else 0)
    if parts[3] == "shortcut":
        return ".".join([f"feature.body.{unit}.shortcut_layer", str(int(parts[4]) - 1), *parts[5:]])
    return ".".join([f"feature.body.{unit}.res_layer", *parts[4:]])


@pytest.mark.parametrize(
    ("model", "rename"),
    [("vgg16", vgg_of_bido), ("vgg16", vgg_of_torchvision), ("face_evolve", face_of_kedmi), ("mcnn", str)],
)
def test_every_array_finds_its_place(model: str, rename: Callable[[str], str]) -> None:
    network, theirs = renamed(model, 1 / 16, rename)
    conversion = convert(theirs, model, 1 / 16, "a file", backbone=False)
    assert not conversion.left_out
    for name, value in network.state_dict().items():
        assert torch.equal(conversion.network.state_dict()[name], value), name


def test_imagenet_weights_of_torchvision_become_a_backbone_to_start_from(tmp_path: Path) -> None:
    from torchvision.models import resnet18, vgg16_bn

    theirs = vgg16_bn(init_weights=False)
    theirs.classifier = nn.Sequential(nn.Linear(4, 3))  # a small one stands for its 120 million weights
    old = {name: value for name, value in theirs.state_dict().items() if "num_batches" not in name}  # as in the .pth
    file = saved(tmp_path / "vgg16_bn.pth", old)
    with pytest.raises(ConfigError, match="or --backbone"):
        convert(read_pickle(file), "vgg16", 1.0, str(file), backbone=False)
    out = tmp_path / "vgg16.safetensors"
    said = command("convert", file, "--model", "vgg16", "--backbone", "--out", out)
    assert "left out: classifier.0.bias, classifier.0.weight" in said
    network = build("vgg16", 9, 1.0, seed=0)
    before = network.get_submodule("head").weight.clone()
    start_from(network, "vgg16", out)
    images = torch.rand(2, 3, 64, 64)
    blocks = network.eval().features(images).taps[:-1]
    torch.testing.assert_close(blocks[-1], theirs.eval().features[:34](images))
    assert torch.equal(network.get_submodule("head").weight, before)
    # The stem differs (7x7 in theirs), and that is said.
    with pytest.raises(IntegrityError, match=r"blocks\.0\.0\.weight is \(64, 3, 7, 7\), 'resnet18' .* \(64, 3, 3, 3\)"):
        convert(resnet18(num_classes=3).state_dict(), "resnet18", 1.0, "resnet18.pth", backbone=True)


def test_a_federation_starts_from_converted_weights(tiny: Callable[..., Any], tmp_path: Path) -> None:
    file = saved(tmp_path / PUBLISHED, {"state_dict": published_mcnn(10).state_dict()})
    out = tmp_path / "start.safetensors"
    command("convert", file, "--model", "mcnn", "--width", "0.1", "--out", out)
    about = read_metadata(out)
    assert (about["model"], about["classes"], about["model-round"]) == ("mcnn", "10", "1")
    assert float(about["accuracy"]) == pytest.approx(0.8334)
    run = prepare(tmp_path / "run", resolved(tiny(model={"weights": str(out)})))
    start = run.initial_network().state_dict()
    assert all(torch.equal(start[name], torch.from_numpy(value)) for name, value in load_weights(out)[0].items())
    other = prepare(tmp_path / "other", resolved(tiny(model={"weights": str(out), "width": 0.2})))
    with pytest.raises(IntegrityError, match=r"start\.safetensors.*array 'blocks\.0\.0\.weight' has shape"):
        other.initial_network()


def test_width_and_classes_are_read_from_the_file(tmp_path: Path) -> None:
    file = saved(tmp_path / PUBLISHED, {"state_dict": published_mcnn(7).state_dict()})
    command("convert", file, "--model", "mcnn", "--out", tmp_path / "read.safetensors")
    about = read_metadata(tmp_path / "read.safetensors")
    assert (about["width"], about["classes"]) == ("0.1", "7")
    for model, width in (("mcnn_vib", 0.3), ("resnet18_32", 0.125), ("torchvision:resnet18", 1.0)):
        shapes = {name: tuple(value.shape) for name, value in build(model, 5, width).state_dict().items()}
        assert size_of(model, shapes, "a file") == (5, width)


def test_a_users_own_network_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_network_to_convert.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, num_classes=3):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model, out = "own_network_to_convert:Net?shape=1,8,8", tmp_path / "out.safetensors"
    theirs = build(model, 9).state_dict()
    file = saved(tmp_path / "theirs.pth", {f"module.{name}": value for name, value in theirs.items()})
    command("convert", file, "--model", model, "--out", out)
    weights, about = load_weights(out)
    assert (about["model"], about["classes"]) == (model, "9")
    assert all(torch.equal(theirs[name], torch.from_numpy(value)) for name, value in weights.items())
    with pytest.raises(ConfigError, match="--backbone is for our own networks"):
        command("convert", file, "--model", model, "--backbone", "--out", out)


def test_what_does_not_fit_is_listed_and_nothing_written(tmp_path: Path) -> None:
    state = dict(published_mcnn(5).state_dict())
    state["layer9.weight"] = state.pop("layer2.0.bias")
    state["fc_layer.bias"] = torch.zeros(6)
    file, out = saved(tmp_path / "wrong.pth", state), tmp_path / "wrong.safetensors"
    with pytest.raises(IntegrityError) as error:
        command("convert", file, "--model", "mcnn", "--width", "0.1", "--out", out)
    for said in ("missing: blocks.1.0.bias", "unknown: layer9.weight", "head.bias is (6,)"):
        assert said in str(error.value)
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"name a \.safetensors file"):
        command("convert", file, "--model", "mcnn", "--out", tmp_path / "x.pth")


def test_a_rounds_model_is_exported_under_the_originals_name(tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", resolved(tiny(data={"private": "mnist04"}, training={"epochs": 2})))
    weights = to_weights(run.initial_network())
    save_weights(
        run.files.server.checkpoint("with_victim", 3), weights, {"model-round": 3, "accuracy": 0.83339, "model": "mcnn"}
    )
    out = tmp_path / "out"
    command("export", run.path, "--round", 3, "--out", out)
    (file,) = out.iterdir()
    assert file.name == "mnist_MCNN_idd[1]_R[3]_C[0.5]_E[2]_B[16]_Acc[83.33].safetensors"
    assert OriginalName.parse(file.name).round == int(read_metadata(file)["model-round"])
    assert load_weights(file)[1]["sha256"] == load_weights(run.files.server.checkpoint("with_victim", 3))[1]["sha256"]
    with pytest.raises(ConfigError, match="no global model of round 4; it has round-0003"):
        command("export", run.path, "--round", 4)


class Evil:
    """Its pickle would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("run",))


@pytest.mark.parametrize("content", [Evil(), {"state_dict": {"a": "text"}}, [1, 2]])
def test_only_tables_of_arrays_are_read(content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IntegrityError, match=r"without running its code|no table of arrays"):
        read_pickle(saved(tmp_path / "x.pth", content))
    assert "run" not in capsys.readouterr().out


def test_damaged_pickles_are_named(tmp_path: Path) -> None:
    (tmp_path / "half.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(IntegrityError, match=r"half\.pth"):
        read_pickle(tmp_path / "half.pth")
    with pytest.raises(IntegrityError, match=r"none\.pth"):
        read_pickle(tmp_path / "none.pth")
