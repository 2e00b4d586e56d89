"""The app under audit: what its pyproject.toml says, and its two components by import path."""

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedinverse.errors import ConfigError
from fedinverse.tables import flat
from fedinverse.theirs import attribute_at


@dataclass(frozen=True)
class FlowerApp:
    """Somebody's Flower app.

    Attributes:
        directory: where its pyproject.toml lies; goes before everything else on the import path.
        serverapp, clientapp: ``package.module:attribute``.
        config: its own ``[tool.flwr.app.config]``, flat: keys of tables are joined with dots.
    """

    directory: Path
    name: str
    serverapp: str
    clientapp: str
    config: dict[str, Any]

    @staticmethod
    def read(directory: Path) -> "FlowerApp":
        """Read the app in ``directory``.

        Raises:
            ConfigError: there is no pyproject.toml, or it declares no Flower app; says what is missing.
        """
        path = directory.resolve() / "pyproject.toml"
        try:
            project = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise ConfigError(
                f"app: {directory} has no pyproject.toml; set app to the directory of a Flower app"
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"app: {path}: {error}") from error
        said = project.get("tool", {}).get("flwr", {}).get("app", {})
        components = said.get("components", {})
        missing = [key for key in ("serverapp", "clientapp") if not isinstance(components.get(key), str)]
        if missing:
            raise ConfigError(
                f"app: {path} names no {' and no '.join(missing)} in [tool.flwr.app.components]; "
                'write e.g. serverapp = "myapp.server_app:app"'
            )
        return FlowerApp(
            path.parent,
            str(project.get("project", {}).get("name", path.parent.name)),
            components["serverapp"],
            components["clientapp"],
            flat(said.get("config", {})),
        )

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where its modules are imported from: its directory, and ``src`` in it where that exists."""
        source = self.directory / "src"
        return (source, self.directory) if source.is_dir() else (self.directory,)

    def on_path(self) -> None:
        """Let this process import the app's modules before anything else of these names."""
        roots = [str(root) for root in self.roots]
        if sys.path[: len(roots)] != roots:
            sys.path[:0] = roots

    def load(self, component: str) -> Any:
        """Return the ``serverapp`` or the ``clientapp``.

        Raises:
            ConfigError: its module has no such attribute.
            TheirError: its module cannot be imported.
        """
        self.on_path()
        return attribute_at(getattr(self, component), f"[tool.flwr.app.components] {component}")
