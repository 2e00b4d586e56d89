"""Bad input gets one clear message that names file, key and fix; exit code 2; nothing written."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedinverse.errors import ConfigError
from fedinverse.house import CONFIGS
from fedinverse.tables import read_table
from pipeline.experiment import load_experiment, resolved
from pipeline.sweep.plan import load_plan

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("training.epoch=2", r"training\.epoch.*did you mean 'epochs'"),
        ("trainin.epochs=2", r"trainin.*did you mean 'training'"),
        ('training.epochs="two"', r"training\.epochs.*integer"),
        ("training.lr=-1", r"training\.lr.*greater than 0"),
        ("population.malicious=20", r"malicious is 20 of 20 clients"),
        ("population.victim=19", r"victim 19 is one of the malicious"),
        ("population.victim=20", r"clients run from 0 to 19"),
        ("federation.fraction_train=0.01", r"samples nobody.*0\.05"),
        ("federation.strategy=fedfoo", r"federation\.strategy.*fedavg"),
        ("model.name=mcn", r"model\.name.*did you mean 'mcnn'"),
        ("data.public=glyph", r"data\.public.*did you mean 'glyphs'"),
        ("attacks.gmi.kind=gm", r"attacks\.gmi\.kind.*did you mean 'gmi'"),
        ("attacks.gmi.iteration=5", r"attacks\.gmi\.iteration.*did you mean 'iterations'"),
        ("attacks.gmi.prior.step=5", r"attacks\.gmi\.prior\.step.*did you mean 'steps'"),
        ("audit.evaluator.model=mcnn", r"target's own architecture"),
        ("split.train=0.6", r"train \+ vault \+ reserve is 1\.1"),
        ("engine.kind=spark", r"engine\.kind"),
        ("name=a/b", r"'name'"),
        ("name=e\u0301", r"looks like 'é' and is another name"),  # decomposed
        ("name=\uff41", r"looks like 'a' and is another name"),  # full width
        ("name=a\u200db", r"letters, digits"),  # nothing to be seen of what joins
        ("name=" + "\U00020000" * 60, r"at most 150 bytes"),
        ("attacks.GMI.kind=gmi", r"differ in case alone"),
        ("training.lr=inf", r"training\.lr.*finite"),
        ("population.alpha=nan", r"population\.alpha.*finite"),
        ("federation.lr=1", r"federation\.lr.*there is training\.lr"),
        ("lr=1", r"'lr'; there is training\.lr"),
        ("population.seed=1", r"population\.seed.*there is seed"),
        ("membership.count=1", r"membership\.count.*known here: .*per_class"),
        ("seed=2020-01-01", r"2020-01-01 is a date"),
        pytest.param(".".join("a" * 3000) + "=1", r"recursion", id="deep"),
        ("training.epochs.x=1", "is a value, not a section"),
        ("training", "write it as section.key=value"),
    ],
)
def test_each_mistake_is_named_with_its_fix(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_experiment("quickstart", [assignment])


def test_every_shipped_config_loads() -> None:
    files = sorted(CONFIGS.rglob("*.toml"))
    assert {"quickstart", "mnist", "celeba", "faces"} <= {path.stem for path in files}
    for path in files:
        if "sweep" in read_table(path):  # its own, or that of the file it extends
            assert load_plan(str(path)).points
        else:
            load_experiment(str(path), [])


def test_a_victim_may_share_all_classes_and_a_federation_needs_no_victim() -> None:
    shared = load_experiment("quickstart", ["population.victim_classes=[]"]).population
    assert shared.shares_classes
    assert shared.role_of(shared.victim) == "victim"
    plain = load_experiment("paper/mnist", [])
    assert (plain.population.victim_classes, plain.population.attackers, plain.attacks) == ((), (), {})
    assert not plain.population.shares_classes


def test_an_unknown_config_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_experiment("quickstrat", [])
    with pytest.raises(ConfigError, match="did you mean 'paper/mnist-bido'"):
        load_experiment("paper/mnist_bido", [])


def test_a_config_may_extend_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "quickstart"\nname = "mine"\n[training]\nlr = 0.5\n[population]\nvictim_classes = [7]\n')
    mine, base = load_experiment(str(path), []), load_experiment("quickstart", [])
    assert (mine.training.lr, mine.training.momentum) == (0.5, base.training.momentum)
    assert mine.population.victim_classes == (7,)
    assert mine.attacks == base.attacks
    path.write_text(f'extends = "{path}"\n')
    with pytest.raises(ConfigError, match="leads back"):
        load_experiment(str(path), [])


def test_what_is_extended_lies_beside_its_heir_wherever_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.toml").write_text('extends = "quickstart"\nseed = 3')
    (tmp_path / "heir.toml").write_text('extends = "base.toml"')
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "base.toml").write_text("seed = 4")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_table(Path("../heir.toml"))["seed"] == 3
    (tmp_path / "base.toml").write_text('extends = "elsewhere/../heir.toml"')
    with pytest.raises(ConfigError, match="leads back to this file"):
        read_table(Path("../heir.toml"))
    (tmp_path / "base.toml").write_text('extends = "missing.toml"')
    with pytest.raises(ConfigError, match=r"base\.toml: 'extends': config 'missing\.toml' not found"):
        read_table(Path("../heir.toml"))


def test_a_file_that_is_no_text_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(ConfigError, match=r"bad\.toml: byte 11 is no UTF-8 text; save the file as UTF-8"):
        read_table(tmp_path / "bad.toml")


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[training\nepochs = 2")
    with pytest.raises(ConfigError, match=r"broken\.toml.*line 1"):
        load_experiment(str(path), [])


def test_the_resolved_table_is_complete_and_loads_again(tiny: Callable[..., Any]) -> None:
    table = resolved(tiny())
    assert table["attacks"]["gmi"]["momentum"] == 0.9
    assert table["federation"]["fraction_evaluate"] == 1.0


def test_command_line_ends_with_2_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "fedinverse_sim.py", "--out", str(out), "--set", "population.victim_classes=[0, 12]"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "[12] not among the 10 classes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_help_teaches() -> None:
    done = subprocess.run(
        [sys.executable, "fedinverse_sim.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    for word in ("--set", "--resume", "--out", "Examples", "quickstart"):
        assert word in done.stdout
