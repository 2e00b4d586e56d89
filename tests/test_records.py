"""The lines that one role writes and others read: the bytes they have, and what is said of a line that does not fit."""

import math
from pathlib import Path

import pytest

from fedinverse.errors import IntegrityError
from fedinverse.records import ClientLine, LedgerLine, ModelFile, PrivacySpent, RoundLine, append_lines, read_lines

SHA = "0" * 8


def test_a_line_has_hyphens_and_leaves_out_what_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    utility = {"accuracy": 0.5, "loss": 1.5, "victim-accuracy": None, "class-accuracy": [0.5, 0.5]}
    lines = [RoundLine.of(0, utility, SHA), RoundLine.of(1, utility, SHA, "1" * 8)]
    append_lines(path, lines)
    first = '{"accuracy": 0.5, "class-accuracy": [0.5, 0.5], "loss": 1.5, "round": 0, "sha256": "00000000", '
    assert path.read_text().splitlines()[0] == first + '"victim-accuracy": null}'
    assert '"strategy-sha256": "11111111"' in path.read_text().splitlines()[1]
    assert read_lines(RoundLine, path) == [
        RoundLine(0, 0.5, 1.5, None, (0.5, 0.5), SHA),
        RoundLine(1, 0.5, 1.5, None, (0.5, 0.5), SHA, "1" * 8),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"round": 1, "node": "7", "sha256": "0"}', "line 2: 'message-type'"),
        ('{"round": "1", "message-type": "train", "node": "7", "sha256": "0"}', "line 2: 'round'"),
        ('{"round": 1, "message-type": "train", "node": 7, "sha256": "0"}', "line 2: 'node'"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_its_key(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_lines(path, [LedgerLine(1, "train", "7", SHA, 2)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(IntegrityError, match=says):
        read_lines(LedgerLine, path)


def test_a_clients_words_do_not_win_over_the_servers(tmp_path: Path) -> None:
    path = tmp_path / "clients.jsonl"
    append_lines(path, [ClientLine(1, 2, {"round": 9, "loss": 0.5}), ClientLine(1, 3, error="no reply")])
    assert path.read_text().splitlines() == [
        '{"loss": 0.5, "partition": 2, "round": 1}',
        '{"error": "no reply", "partition": 3, "round": 1}',
    ]
    assert ClientLine.read_all(path) == [ClientLine(1, 2, {"loss": 0.5}), ClientLine(1, 3, error="no reply")]
    path.write_text('{"round": 1}\n')
    with pytest.raises(IntegrityError, match=r"clients\.jsonl: a line is no client's report"):
        ClientLine.read_all(path)


def test_accounts_of_privacy_are_read_as_they_were_written(tmp_path: Path) -> None:
    # Fails if an infinite epsilon is lost, if noise of one kind is taken for the other, or if text passes for a figure.
    path = tmp_path / "privacy.json"
    accounts = {0: PrivacySpent("dp_sgd", 2, 1.5, 1e-5), 3: PrivacySpent("none", 1, math.inf, 1e-5, 0.5, 1e-6)}
    PrivacySpent.write_all(path, accounts)
    assert PrivacySpent.read_all(path) == accounts
    assert accounts[0].spent == {"own": (1.5, 1e-5)}
    assert accounts[3].spent == {"own": (math.inf, 1e-5), "central": (0.5, 1e-6)}
    assert PrivacySpent.read_all(tmp_path / "absent.json") == {}
    for entry in ('{"one": {}}', '{"0": []}', '{"0": {"epsilon": "much"}}', '{"0": {"word": 1}}'):
        path.write_text(entry)
        with pytest.raises(IntegrityError, match=r"privacy\.json"):
            PrivacySpent.read_all(path)


@pytest.mark.parametrize("number", ["", "-1", "two", "1.5", "²"])
def test_a_weights_file_that_says_no_round_has_none(number: str) -> None:
    # Fails if another party's metadata end in a traceback.
    assert ModelFile.of({"model-round": number, "sha256": "x"}) == ModelFile("x", -1)
    assert ModelFile.of({"model-round": "12"}) == ModelFile("", 12)
