"""A seeded slice of ``benchmarks/fuzz.py``, and every case that once failed there."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CORPUS = Path(__file__).parent / "corpus"
sys.path.insert(0, str(ROOT / "benchmarks"))

import fuzz  # noqa: E402
from fuzz_configs import check_config, config_case  # noqa: E402
from fuzz_files import check_file, file_case, make_run, targets  # noqa: E402
from fuzz_places import CHECKS  # noqa: E402
from fuzz_runs import COMMANDS, run_case  # noqa: E402

from fedinverse.errors import FedInverseError  # noqa: E402

CONFIGS, FILES = 300, 450


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return targets(make_run(tmp_path_factory.mktemp("fuzz")))


def test_mutated_configs_are_refused_or_mean_what_they_say(tmp_path: Path) -> None:
    said = [fuzz.outcome(lambda n=n: check_config(tmp_path, *config_case(n, 7))) for n in range(CONFIGS)]  # type: ignore[misc]
    assert [one for one in said if one not in {"refused", "accepted"}] == []
    assert {"refused", "accepted"} == set(said)
    assert not (tmp_path / "runs").exists()


def test_damaged_files_are_refused_or_mean_the_same(kinds: dict[str, Any]) -> None:
    names, said = sorted(kinds), {}
    for number in range(FILES):
        name = names[number % len(names)]
        target = kinds[name]
        meant = target.read(target.path)
        damaged = file_case(name, target, number, 7)
        said[name, number] = fuzz.outcome(lambda t=target, d=damaged, m=meant: check_file(t, d, m))  # type: ignore[misc]
    assert {case: what for case, what in said.items() if what.startswith("FAILED")} == {}
    hashed = [what for (name, _), what in said.items() if kinds[name].hashed]
    assert hashed.count("refused") > 0.8 * len(hashed)


@pytest.mark.parametrize(("kind", "cases"), [("pictures", 40), ("environment", 15)])
def test_folders_and_environments_of_any_make_are_refused_or_read(
    kind: str, cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    said = [fuzz.outcome(lambda n=n: CHECKS[kind](tmp_path, n, 0)) for n in range(cases)]  # type: ignore[misc]
    assert {number: one for number, one in enumerate(said) if one not in {"refused", "accepted"}} == {}
    assert {"refused", "accepted"} == set(said)


def test_a_command_on_a_run_with_a_damaged_file_says_so_or_does_its_work(attacked_run: Any, tmp_path: Path) -> None:
    quick = tuple(command for command in COMMANDS if command[0] in ("report", "runs", "compare"))
    said = [fuzz.outcome(lambda n=n: run_case(attacked_run.path, tmp_path, n, 5, quick)) for n in range(30)]  # type: ignore[misc]
    assert {number: one for number, one in enumerate(said) if one not in {"refused", "accepted"}} == {}
    assert {"refused", "accepted"} == set(said)


@pytest.mark.parametrize("key", ["data.private_root", "data.public_root", "model.weights"])
def test_a_path_that_no_file_system_can_have_is_refused_by_its_key(key: str, tmp_path: Path) -> None:
    assert check_config(tmp_path, b'extends = "quickstart"\n', [f'{key}="a\\u0000b"']) == "refused"


@pytest.mark.parametrize("path", sorted((CORPUS / "configs").iterdir()), ids=lambda path: path.stem)
def test_a_config_that_once_broke_the_program_is_refused(path: Path, tmp_path: Path) -> None:
    os.chdir(ROOT)
    with fuzz.time_limit():
        assert check_config(tmp_path, path.read_bytes(), []) == "refused"


@pytest.mark.parametrize("number", range(len((CORPUS / "assignments.txt").read_text().splitlines())))
def test_an_assignment_that_once_broke_the_program_is_refused(number: int, tmp_path: Path) -> None:
    assignment = (CORPUS / "assignments.txt").read_text().splitlines()[number]
    with fuzz.time_limit():
        assert check_config(tmp_path, b'extends = "quickstart"\n', [assignment]) == "refused"


@pytest.mark.parametrize("path", sorted((CORPUS / "files").iterdir()), ids=lambda path: path.stem)
def test_a_file_that_once_broke_the_program_is_refused_by_name(path: Path, kinds: dict[str, Any]) -> None:
    target = kinds[path.name.split("--", maxsplit=1)[0]]
    raw = target.path.read_bytes()
    try:
        target.path.write_bytes(path.read_bytes())
        with pytest.raises(FedInverseError, match="/run/"):
            target.read(target.path)
    finally:
        target.path.write_bytes(raw)


def test_the_harness_notices_what_it_is_there_for(kinds: dict[str, Any]) -> None:
    def careless(_: Path) -> str:
        return "whatever lies there"

    whole = kinds["capture"]
    blind = type(whole)(whole.path, careless, hashed=True)
    assert "read as if it were whole" in fuzz.outcome(lambda: check_file(blind, b"damaged", "what was meant"))
    assert fuzz.outcome(lambda: str(1 // 0)).startswith("FAILED ZeroDivisionError at test_fuzz.py")
    with pytest.raises(fuzz.HangError), fuzz.time_limit(0.05):
        time.sleep(5)
