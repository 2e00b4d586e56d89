"""Where a run's figures come from: when, with which versions, from which data; and one hash of it all."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedinverse.layout import WITH_VICTIM
from fedinverse.run import Run
from fedinverse.storage import content_sha256, file_sha256, read_json, write_json
from fedinverse.version import __version__
from report.threat import source_of

_PACKAGES = ("flwr", "torch", "torchvision", "numpy")


def note_start(run: Run) -> None:
    """Write when this run began and with which versions, once."""
    if not run.files.provenance.exists():
        installed = {name: _version(name) for name in _PACKAGES}
        versions = {"fedinverse": __version__, **installed, "python": platform.python_version()}
        started = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(run.files.provenance, {"started": started, "versions": versions, "machine": platform.machine()})


def provenance(run: Run) -> list[tuple[str, str]]:
    """Return (what, value) pairs for the reader of a page."""
    about: dict[str, Any] = {"started": "", "versions": {}}
    about |= read_json(run.files.provenance) if run.files.provenance.exists() else {}
    data = [f"{name} {source_of(run, name)}, {len(pool.images):,} images" for name, pool in run.pools.items()]
    return [
        ("Date", str(about["started"]).replace("T", " ").removesuffix("+00:00") + " UTC" if about["started"] else "–"),
        ("Versions", ", ".join(f"{name} {number}" for name, number in about["versions"].items()) or "not recorded"),
        ("Data", "; ".join(data)),
        ("Seed", str(run.seed)),
        ("Run hash", run_hash(run)),
    ]


def run_hash(run: Run) -> str:
    """Return a hash of configuration, split, final model and scores: equal for equal results, 16 digits."""
    rounds = run.recorded_rounds(WITH_VICTIM)
    files = [file_sha256(path) if path.exists() else "" for path in (run.files.split, run.files.auditor.scores)]
    return content_sha256([run.table, rounds[-1].sha256 if rounds else "", *files])[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
