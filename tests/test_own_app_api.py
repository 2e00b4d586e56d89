"""``from fedinverse import audit, attack, capture``: the notebook in examples/ runs, and its results show themselves.

The notebook's cells are executed here one after the other, as a kernel would; nbclient and a kernel would be eight
packages for these lines.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell; return the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "signs").symlink_to(EXAMPLES / "signs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    notebook = json.loads((EXAMPLES / "audit_your_app.ipynb").read_text())
    names: dict[str, Any] = {}
    results = [run_cell("".join(cell["source"]), names) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    captured, attacked, audited = results[1:4]
    assert list(captured.models) == [0, 1]
    assert "Client 3 kept 2 models" in captured._repr_html_()
    assert attacked.table["class"].tolist() == [0, 1]
    assert attacked.reconstructions.images.shape == (4, 3, 32, 32)
    assert {"A", "B0", "B1", "B2", "B3", "B4", "B5"} <= set(audited.table.columns)
    for result in (attacked, audited):
        page = result._repr_html_()
        assert "<table" in page
        assert 'src="data:image/png;base64,' in page
    assert audited.verdict["sentence"].split(":")[0] in audited._repr_html_()
    assert audited.report.exists()
