"""What Ray starts as a worker here: the same worker in one process, where Ray's own script makes two of it.

Ray's script imports Ray, has a shell start Python anew, and that imports Ray again. The first of them is for runtime
environments, of which this engine uses none; where there is one, or the script takes other options than it did, it is
run after all. Where a process is there to fork from (``forks``), the worker is a fork of that.
"""

import sys

_OPTIONS = ("--serialized-runtime-env-context", "--language")  # of Ray's script; all others are its worker's


def _is_plain(environment: str | None) -> bool:
    """Return whether a runtime environment changes nothing of how a worker is started."""
    about = json.loads(environment or "{}")
    return not any(about.get(key) for key in ("env_vars", "command_prefix", "override_worker_entrypoint"))


if __name__ == "__main__":
    del sys.path[0]  # this directory, where 'ray' is another module

    import argparse
    import json
    import os
    import runpy
    from importlib.util import find_spec
    from pathlib import Path

    from fedinverse.program import collect_rarely
    from pipeline.engines.forks import SOCKET, fork_instead

    place = find_spec("ray")
    assert place is not None
    assert place.origin is not None
    script = Path(place.origin).parent / "_private" / "workers" / "setup_worker.py"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in _OPTIONS:
        parser.add_argument(option)
    known, words = parser.parse_known_args()
    source = script.read_text(encoding="utf-8")
    as_before = source.count("add_argument(") == len(_OPTIONS) and all(f'"{option}"' in source for option in _OPTIONS)
    plain = as_before and known.language == "PYTHON" and _is_plain(known.serialized_runtime_env_context)
    plain = plain and words[0].endswith("default_worker.py")
    forks = os.environ.get(SOCKET, "")
    if not (plain and forks and fork_instead(forks, words)):
        collect_rarely()
        sys.argv = words if plain else [str(script), *sys.argv[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
