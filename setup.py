"""What pyproject.toml cannot say: an installed package holds the rooms within itself (see fedinverse/house.py)."""

import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ("server", "clients", "strategies", "attacker", "auditor", "report", "pipeline")


class WithApp(build_py):
    """Puts beside the modules what a Flower app consists of besides them: ``deploy`` submits it."""

    def run(self) -> None:
        """Build the modules, then add the files."""
        super().run()
        if not self.editable_mode:
            for name in ("pyproject.toml", "LICENSE"):
                self.copy_file(name, str(Path(self.build_lib) / "fedinverse" / name))


rooms = find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
packages = find_packages(include=["fedinverse", "fedinverse.*"])
data = {"fedinverse": ["**/*.safetensors", "**/*.json", "**/*.png"]}
if "editable_wheel" in sys.argv:  # a checkout's own environment: the rooms are imported from where they stand
    setup(packages=packages + rooms, package_data=data)
else:
    below = {f"fedinverse.rooms.{room}": room.replace(".", "/") for room in rooms}
    setup(
        packages=[*packages, *below, "fedinverse.configs"],
        package_dir={**below, "fedinverse.configs": "configs"},
        package_data={
            **data,
            "fedinverse.configs": ["**/*.toml"],
            "fedinverse.rooms.report": ["**/*.html", "**/*.css", "**/*.js"],
            "fedinverse.rooms.attacker": ["**/*.safetensors", "**/*.json", "**/*.png"],
        },
        cmdclass={"build_py": WithApp},
    )
