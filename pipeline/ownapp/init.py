"""``fedinverse audit-app PATH --init``: an ``audit.toml`` with every key explained and what could be found filled in.

The app's files are read, not run: what stands in pyproject.toml, and what its source shows (classes that derive from
``Module``, what is called with a node's partition id, ``Normalize(...)``, the last ``Linear``). All of it is a guess
for its owner to look through.
"""

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w
from pydantic_core import PydanticUndefined

from fedinverse.config import is_file_name
from fedinverse.errors import ConfigError
from fedinverse.storage import atomic_write
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.settings import FILE, AppAudit, Inputs

_MISSING: dict[str, Any] = {
    "clients": 10,
    "attacker": 9,
    "model": "package.module:Net",
    "classes": 10,
    "data": "package.module:load_data",
    "public": "imagefolder",
    "shape": [3, 32, 32],
}
_ELSEWHERE = ("attack", "schedule", "audit")  # tables of a run, each optional and explained in docs/audit-your-app.md
_SKIPPED = {".git", ".venv", "venv", "node_modules", "build", "dist", "__pycache__", "tests"}
_WIDTH = 110


def init(path: Path) -> Path:
    """Write the file for the app in ``path``; return where it lies.

    Raises:
        ConfigError: there is one already, or no Flower app.
    """
    file = path / FILE
    if file.exists():
        raise ConfigError(f"{file} exists already; it is kept. Delete it to have it written anew")
    app = FlowerApp.read(path)
    atomic_write(file, text_for(app))
    return file


def text_for(app: FlowerApp) -> str:
    """Return the text of the file for ``app``."""
    guesses = _guesses(app)
    missing = _MISSING | ({"public": "glyphs"} if guesses.get("shape", _MISSING["shape"])[0] == 1 else {})
    lines = [f"# What FedInverse needs to know of the app '{app.name}'. Lines with a leading # are defaults.", ""]
    for name, field in AppAudit.model_fields.items():
        if name in ("inputs", "run_config", *_ELSEWHERE):
            continue
        lines += _explained(name, field.description or "", guesses, field.default, missing)
    lines += ["[inputs]"]
    for name, field in Inputs.model_fields.items():
        lines += _explained(name, field.description or "", guesses, field.default, missing)
    lines += ["[run_config]", "# The app's own [tool.flwr.app.config]; take the # off a line to override it."]
    lines += [f"# {_line(key, value)}" for key, value in app.config.items()]
    lines += [
        "",
        "# The attack, its schedule and the audit are set as in a run's tables; see docs/audit-your-app.md:",
        "# [attack]",
        '# kind = "gmi"',
        "# [schedule]",
        "# restarts = 10",
        "",
    ]
    return "\n".join(lines)


def _explained(
    name: str, description: str, guesses: dict[str, Any], default: Any, missing: dict[str, Any]
) -> list[str]:
    """Return the comment and the line of one key: what was found, else its default behind a #, else a place to fill."""
    comment = [f"# {line}" for line in textwrap.wrap(description, _WIDTH)]
    if name in guesses:
        return [*comment, f"{_line(name, guesses[name])}  # found in the app; check it", ""]
    if default is not PydanticUndefined:
        return [*comment, f"# {_line(name, list(default) if isinstance(default, tuple) else default)}", ""]
    return [*comment, f"{_line(name, missing.get(name, 1))}  # to be filled in", ""]


def _line(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{name} = [{', '.join(map(repr, value))}]"
    return f"{name} = {{}}" if value == {} else tomli_w.dumps({name: value}).strip()


def _guesses(app: FlowerApp) -> dict[str, Any]:
    """Return what could be found, by key."""
    guesses: dict[str, Any] = {}
    if is_file_name(app.name):
        guesses["name"] = app.name
    for module, tree in _modules(app):
        if (asked := _asked_with_a_partition(module, tree)) is not None:
            guesses["data"] = asked
        for outer in tree.body:  # a class, or a function that holds one
            if isinstance(outer, ast.ClassDef | ast.FunctionDef) and any(
                isinstance(node, ast.ClassDef) and "Module" in _bases(node) for node in ast.walk(outer)
            ):
                guesses["model"] = f"{module}:{outer.name}"  # the last one is usually made of those before it
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and "NumPyClient" in _bases(node):
                guesses.setdefault("state", "list")
            elif isinstance(node, ast.ListComp) and _is_list_of_parameters(node):
                guesses["state"] = "parameters"
            elif isinstance(node, ast.FunctionDef) and _loads_data(node):
                guesses.setdefault("data", f"{module}:{node.name}")
            elif isinstance(node, ast.Call):
                guesses |= _from_call(node, guesses)
    clients = _clients(app)
    if clients is not None:
        guesses |= {"clients": clients, "attacker": clients - 1}
    if "mean" in guesses:
        guesses["pixels"] = "input"  # whoever calls Normalize does so where images are loaded
    return guesses


def _bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).split(".")[-1] for base in node.bases}


def _asked_with_a_partition(module: str, tree: ast.Module) -> str | None:
    """Return what the app's own code calls with a node's partition id and the number of partitions, by import path."""
    places = {"partition-id": set[str](), "num-partitions": set[str]()}  # and the variables that hold them
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=False))
            for target, value in pairs:
                for key, names in places.items():
                    if isinstance(target, ast.Name) and key in ast.unparse(value):
                        names.add(target.id)
    homes = {
        alias.asname or alias.name: (_source(module, node), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        given = [argument.value if isinstance(argument, ast.Starred) else argument for argument in node.args]
        texts = [ast.unparse(argument) for argument in (*given, *(keyword.value for keyword in node.keywords))]
        who, count = (
            [place for place, text in enumerate(texts) if key in text or text in names] for key, names in places.items()
        )
        if who and count and who != count:  # else it is a call of what is asked: Client(load(who, count))
            home, name = homes.get(node.func.id, (module, node.func.id))
            return f"{home}:{name}"
    return None


def _source(module: str, node: ast.ImportFrom) -> str:
    """Return the absolute name of the module that ``node`` of ``module`` imports from."""
    package = module.split(".")[: -node.level] if node.level else []
    return ".".join([*package, *(node.module or "").split(".")]).strip(".")


def _is_list_of_parameters(node: ast.ListComp) -> bool:
    """Return whether it is like ``[value.numpy() for value in net.parameters()]``."""
    return ast.unparse(node.generators[0].iter).endswith(".parameters()") and ".numpy(" in ast.unparse(node.elt)


def _loads_data(node: ast.FunctionDef) -> bool:
    names = [argument.arg for argument in node.args.args]
    return len(names) >= 2 and "partition" in names[0] and ("num" in names[1] or "partitions" in names[1])


def _from_call(node: ast.Call, guesses: dict[str, Any]) -> dict[str, Any]:
    """Return what a call of Normalize, Linear or Conv2d shows; a later Linear takes back what an earlier one did."""
    name = ast.unparse(node.func).split(".")[-1]
    values = [_constant(argument) for argument in node.args]
    if name == "Normalize" and len(values) >= 2 and all(isinstance(value, tuple | list) for value in values[:2]):
        return {key: list(map(float, value)) for key, value in zip(("mean", "std"), values, strict=False)}
    if name == "Linear" and len(values) >= 2:
        guesses.pop("classes", None)  # of a layer before it; this one may be the last, and say nothing
        return {"classes": values[1]} if isinstance(values[1], int) else {}
    if name == "Conv2d" and "shape" not in guesses and values and values[0] in (1, 3):
        return {"shape": [values[0], *((28, 28) if values[0] == 1 else (32, 32))]}
    return {}


def _constant(argument: ast.expr) -> Any:
    try:
        return ast.literal_eval(argument)
    except ValueError:
        return None


def _modules(app: FlowerApp) -> Iterator[tuple[str, ast.Module]]:
    """Yield (import name, syntax tree) of the app's own modules, those of the components' package first."""
    first = app.clientapp.split(".")[0].split(":")[0]

    def later(path: Path) -> tuple[bool, Path]:
        return _import_name(app, path).split(".")[0] != first, path

    for path in sorted(app.directory.rglob("*.py"), key=later):
        relative = path.relative_to(app.directory)
        if _SKIPPED & set(relative.parts) or relative.parts[0].startswith("."):
            continue
        try:
            yield _import_name(app, path), ast.parse(path.read_text(encoding="utf-8-sig"))
        except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
            continue  # not for us to judge: it is named when it is imported


def _import_name(app: FlowerApp, path: Path) -> str:
    root = next(root for root in app.roots if path.is_relative_to(root))
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _clients(app: FlowerApp) -> int | None:
    """Return the number of simulated nodes that older pyproject files name; None: it does not."""
    project = tomllib.loads((app.directory / "pyproject.toml").read_text(encoding="utf-8-sig"))
    federations = project.get("tool", {}).get("flwr", {}).get("federations", {})
    for federation in federations.values():
        number = federation.get("options", {}).get("num-supernodes") if isinstance(federation, dict) else None
        if isinstance(number, int):
            return number
    return None
