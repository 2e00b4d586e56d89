"""What the verdict speaks of, how it is written and read, and that its schema is documented."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from score_tables import LEAK, METRIC, QUIET, rows, verdict

from auditor.metrics.names import METRICS
from auditor.settings import Primary
from auditor.verdict import (
    AttributionReport,
    Interval,
    LeakCost,
    Missing,
    Omission,
    Point,
    RunDeviation,
    Verdict,
    leakage_table,
    read_verdict,
)
from fedinverse.errors import ConfigError, IntegrityError


def test_the_primary_attack_and_round_are_never_guessed() -> None:
    two = pd.concat([rows(LEAK), rows(QUIET, attack="vmi")])
    with pytest.raises(ConfigError, match="must name one of gmi, vmi"):
        verdict(two)
    chosen = verdict(two, Primary(attack="vmi", metric=METRIC))
    assert chosen.outcome == "no leak detected"
    assert chosen.attacks == ("gmi", "vmi")
    with pytest.raises(ConfigError, match=r"attack is 'x'"):
        verdict(two, Primary(attack="x", metric=METRIC))
    with pytest.raises(ConfigError, match="round is 4"):
        verdict(rows(LEAK), Primary(round=4, metric=METRIC))
    with pytest.raises(ConfigError, match="no attack has a score"):
        verdict(rows(LEAK), Primary(metric="x"))


def test_a_written_verdict_is_read_and_other_versions_are_refused(tmp_path: Path) -> None:
    judged, path = verdict(rows(LEAK, classes=5)), tmp_path / "verdict.json"
    path.write_text(judged.model_dump_json())
    assert read_verdict(path) == judged
    for damage, complaint in (('"version":3', "version 3, known are 1 and 2"), ('"version":2,"x":1', "'x'")):
        path.write_text(judged.model_dump_json().replace('"version":2', damage))
        with pytest.raises(IntegrityError, match=complaint):
            read_verdict(path)


def test_a_verdict_of_version_1_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = Path(__file__).parent / "corpus" / "verdict-1.json"
    written, judged = json.loads(path.read_text()), read_verdict(path)
    assert (judged.version, judged.rules, judged.claim) == (2, 1, "this run")
    assert (judged.outcome, judged.sentence) == (written["outcome"], written["sentence"])
    assert judged.main.outcome == "leak"
    assert judged.main.leakage == Interval(**written["points"][0]["leakage"] | {"marks": judged.main.leakage.marks})  # type: ignore[union-attr]
    assert judged.main.leads["B4"] == judged.between_runs == Missing(omitted="a verdict of version 1 does not say")
    damaged = tmp_path / "verdict.json"
    damaged.write_text(json.dumps(written | {"points": "none"}))
    with pytest.raises(IntegrityError, match="audit the run again"):
        read_verdict(damaged)


DOCS = Path(__file__).parent.parent / "docs"


def test_the_schema_is_documented() -> None:
    # The file is json.dumps(schema, indent=2, ensure_ascii=False) and a newline.
    schema = Verdict.model_json_schema(mode="serialization")
    assert json.loads((DOCS / "verdict.schema.json").read_text()) == schema
    text = (DOCS / "verdict.md").read_text()
    for part in (Verdict, Point, AttributionReport, Omission, LeakCost, Interval, Missing, RunDeviation):
        for key in part.model_fields:
            assert f"`{key}`" in text or f'"{key}"' in text, key
    for name in METRICS.registered():
        metric = METRICS.get(name)
        row = (
            f"| `{name}` | {'-1' if metric.whole else 'class'} | {'yes' if metric.share else 'no'} | {metric.meaning} |"
        )
        assert row in text


def test_a_written_verdict_has_the_documented_keys() -> None:
    schema = Verdict.model_json_schema(mode="serialization")
    written = json.loads(verdict(rows(LEAK)).model_dump_json())
    assert set(written) == set(schema["properties"])
    assert set(written["points"][0]) == set(schema["$defs"]["Point"]["properties"])


def test_leakage_as_a_tidy_table() -> None:
    result = verdict(pd.concat([rows(QUIET, server_round=1), rows(LEAK | {"CEIL": 0.0}, server_round=5)]))
    table = leakage_table(result).set_index(["round", "figure"])
    assert isinstance(result.points[1].leakage, Interval)
    assert table.loc[(5, "leakage"), "value"] == result.points[1].leakage.value
    assert table.loc[(1, "p_holm"), "value"] == result.points[0].p_holm
    assert "is no leak" in table.loc[(-1, "time-to-leak"), "omitted"]
    assert leakage_table(verdict(rows(LEAK))).set_index("figure").loc["time-to-leak", "value"] == 5
    assert math.isnan(table.loc[(5, "normalised"), "value"])
    assert "ceiling" in table.loc[(5, "normalised"), "omitted"]
    assert table.loc[(5, "leakage"), "omitted"] == ""


def test_verdicts_repeat() -> None:
    assert verdict(rows(LEAK)) == verdict(rows(LEAK))
