"""The Flower app as ``flwr`` wants it: one directory with pyproject.toml and the packages beside it."""

import shutil
from pathlib import Path

from fedinverse.house import APP_FILE, CONFIGS, HOME, INSTALLED, KERNEL, ROOMS


def app_directory(scratch: Path) -> Path:
    """Return the directory of the Flower app: the checkout, or ``scratch`` with the installed packages laid out anew.

    Both give the same bundle, byte for byte.
    """
    if not INSTALLED:
        return HOME
    shutil.rmtree(scratch, ignore_errors=True)
    code = shutil.ignore_patterns("__pycache__", "rooms", "configs")
    shutil.copytree(KERNEL, scratch / KERNEL.name, ignore=code)
    for room in ROOMS:
        shutil.copytree(HOME / room, scratch / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONFIGS, scratch / CONFIGS.name)
    for name in (APP_FILE.name, "LICENSE"):
        shutil.move(scratch / KERNEL.name / name, scratch / name)
    return scratch
