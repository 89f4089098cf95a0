"""No prompts, or none of a format: told, not passed over."""

from pathlib import Path

import pytest

from lookright.common.jsonl import AppendOnly
from lookright.composing.compose import check_composed
from lookright.composing.workspace import Workspace
from lookright.errors import ConfigError


def test_no_prompt_at_all_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path)
    with AppendOnly(workspace.instructions), AppendOnly(workspace.skipped) as skipped:
        for number in range(3):
            skipped.add({"id": f"all/{number}", "reason": "no_companions"})
    with pytest.raises(ConfigError, match=r"no prompt was composed \(left out: 3 no_companions\); see .*skipped.jsonl"):
        check_composed(workspace, ["sequence"])


def test_a_format_without_prompts_is_named(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    workspace = Workspace(folder=tmp_path)
    with AppendOnly(workspace.instructions) as written, AppendOnly(workspace.skipped):
        written.add({"id": "a", "format": "sequence"})
    check_composed(workspace, ["sequence"])
    assert not recwarn.list
    with pytest.warns(UserWarning, match="formats: no prompt of pic_in_pic was composed, of 1 in all"):
        check_composed(workspace, ["sequence", "pic_in_pic"])
