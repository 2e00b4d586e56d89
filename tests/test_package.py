"""The distribution: built, installed into an environment without the checkout, used from another directory."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from conftest import TINY, merged
from flwr.cli.build import build_fab_from_disk

import fedinverse
from fedinverse.errors import NameTakenError
from fedinverse.house import HOME, ROOMS, open_rooms

ROOT = Path(__file__).parent.parent


def ran(command: list[str], cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``command`` in ``cwd`` as somebody would who never heard of the checkout."""
    strange = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    return subprocess.run(command, cwd=cwd, env=strange, check=False, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel that was built from the source distribution alone."""
    place = tmp_path_factory.mktemp("dist")
    source = place / "source"
    mere_products = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=mere_products)
    build = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"
    built = ran([sys.executable, "-c", build.format("sdist", str(place))], source)
    assert built.returncode == 0, built.stderr
    archive = place / built.stdout.split()[-1]
    unpacked = ran([sys.executable, "-m", "tarfile", "-e", str(archive), str(place)], place)
    assert unpacked.returncode == 0, unpacked.stderr
    unpacked_source = place / archive.name.removesuffix(".tar.gz")
    for part in ("examples", "mkdocs.yml", "docs", "tests", "benchmarks", "constraints.txt", "Makefile"):
        assert (unpacked_source / part).exists(), f"the source distribution leaves out {part}"
    built = ran([sys.executable, "-c", build.format("wheel", str(place))], unpacked_source)
    assert built.returncode == 0, built.stderr
    return place / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the interpreter of an environment that has the wheel, and this environment's other packages."""
    place = tmp_path_factory.mktemp("clean")
    venv.create(place)
    clean = str(place / "bin" / "python")
    libraries = ran([clean, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], place).stdout.strip()
    # A plain path: Python does not look into its .pth files, so an editable installation there stays out.
    (Path(libraries) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", clean, "install", "-q", "--no-index", "--no-deps", str(wheel)]
    done = ran(install, place)
    assert done.returncode == 0, done.stderr
    return clean


def test_the_wheel_puts_one_name_into_site_packages_and_takes_the_data_along(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"fedinverse", f"fedinverse-{fedinverse.__version__}.dist-info"}
    for path in [*(ROOT / "configs").rglob("*.toml"), *(ROOT / "report").rglob("*.html")]:
        inside = path.relative_to(ROOT).as_posix()
        assert {f"fedinverse/{inside}", f"fedinverse/rooms/{inside}"} & set(names), f"{inside} is left out"
    assert not [name for name in names if "test" in name.split("/")[1] or "benchmarks" in name]


def test_installed_it_runs_from_another_directory(python: str, tmp_path: Path) -> None:
    """Own config by path, ``extends`` by name; the clients on Ray's processes, the attacker in one of its own."""
    changes = {"name": "mine", "extends": "quickstart", "engine": {"kind": "ray", "actors": 1}}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(merged(TINY, changes)))
    program = str(Path(python).with_name("fedinverse"))
    version = ran([program, "--version"], tmp_path)
    assert version.stdout.startswith(f"fedinverse {fedinverse.__version__}, flwr "), version.stderr
    done = ran([program, "run", "mine.toml"], tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


def test_a_stranger_with_the_name_of_a_room_is_named(python: str, tmp_path: Path) -> None:
    (tmp_path / "strategies.py").write_text("")
    done = ran([python, "-m", "fedinverse", "--version"], tmp_path)
    assert done.returncode == 2
    assert str(tmp_path / "strategies.py") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stranger_who_came_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clients", pytest)
    with pytest.raises(NameTakenError, match=r"'clients'.*pytest"):
        open_rooms()


def test_the_flower_app_is_the_same_from_a_checkout_and_installed(python: str, tmp_path: Path) -> None:
    lay_out = "import fedinverse, pathlib; from pipeline.deploy.control import app_directory; "
    lay_out += f"app_directory(pathlib.Path({str(tmp_path / 'flower-app')!r}))"
    done = ran([python, "-c", lay_out], tmp_path)
    assert done.returncode == 0, done.stderr
    assert build_fab_from_disk(tmp_path / "flower-app") == build_fab_from_disk(HOME)


def test_the_flower_app_holds_code_and_nothing_else_of_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "app.fab").write_bytes(build_fab_from_disk(HOME))
    names = zipfile.ZipFile(tmp_path / "app.fab").namelist()
    allowed = {"fedinverse", "configs", *ROOMS, "pyproject.toml", "LICENSE", ".info"}
    assert {name.split("/")[0] for name in names} <= allowed
    assert "server/app.py" in names
    assert "clients/app.py" in names


def test_the_flower_app_takes_configs_by_name_and_none_that_somebody_put_beside_them() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["fab-include"]
    listed = {pattern for pattern in included if pattern.startswith("/configs/")}
    assert listed == {f"/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.toml")}


def test_the_version_stands_twice_and_is_one() -> None:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert table["project"]["version"] == fedinverse.__version__
    assert f"## {fedinverse.__version__}" in (ROOT / "CHANGELOG.md").read_text()
