"""`docs/python.ipynb` is `docs/python.md` with what its blocks give: `python -m tests.notebook` writes it.

Cells are run here rather than by a kernel: the notebook needs nothing that the package does not.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE, NOTEBOOK = DOCS / "python.md", DOCS / "python.ipynb"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", flags=re.MULTILINE | re.DOTALL)


def parts_of(page: str) -> list[tuple[str, str]]:
    """The page as ("markdown", text) and ("code", text), in order."""
    pieces = BLOCK.split(page)
    kinds = ["code" if place % 2 else "markdown" for place in range(len(pieces))]
    return [(kind, text.strip("\n")) for kind, text in zip(kinds, pieces, strict=True) if text.strip()]


def run_cell(code: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of the expression that ends it, as a notebook shows both."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return printed.getvalue(), value


def outputs(printed: str, value: Any) -> list[dict[str, Any]]:
    """The outputs of a cell in the notebook's format; pictures as PNG."""
    found: list[dict[str, Any]] = []
    if printed:
        found.append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)})
    if hasattr(value, "_repr_png_"):
        data = {"image/png": base64.b64encode(value._repr_png_()).decode() + "\n"}
        found.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return found


def notebook(page: str) -> dict[str, Any]:
    """Run the blocks of a page in one namespace."""
    cells, names = [], {}
    for number, (kind, text) in enumerate(parts_of(page)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": outputs(*run_cell(text, names))}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        made = notebook(PAGE.read_text(encoding="utf-8"))
    NOTEBOOK.write_text(json.dumps(made, indent=1, sort_keys=True) + os.linesep, encoding="utf-8")
    print(f"wrote {NOTEBOOK}")
