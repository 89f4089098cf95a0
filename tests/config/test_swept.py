"""What tells a job of a sweep from the others, from its command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from lookright.config.swept import Place, place_in_sweep, swept_keys

APP = """
import hydra
from lookright.config.swept import place_in_sweep


@hydra.main(version_base="1.3", config_path=None)
def main(config):
    place = place_in_sweep()
    print("PLACE", place and (place.folder, place.name))


main()
"""


def test_swept_keys() -> None:
    line = ["--config-dir", "mine/conf", "-m", "seed=1", "loss.alpha=0,0.1", "+x=[1,2]", "tuning=lora,full"]
    assert swept_keys(line) == {"loss.alpha", "tuning"}
    assert swept_keys(["a=range(1,4)", "b=choice(1,2)", "c='1,2'", "++d=1,2", "broken=[", "~e"]) == {"a", "b", "d"}


def test_a_name_is_the_swept_keys_in_order() -> None:
    assert Place(folder="x", overrides=["+loss.gamma=1", "loss.alpha=0.1"]).name == "loss.alpha=0.1,loss.gamma=1"
    assert Place(folder="x", overrides=[]).name == ""


def test_out_of_a_sweep_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOKRIGHT_SWEPT", raising=False)
    assert place_in_sweep() is None


def test_jobs_of_hydras_own_launcher(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    line = ["-m", "+a=1,2", "+b='x y'", "+c=3", "hydra.sweep.dir=out/here"]
    done = subprocess.run([sys.executable, "app.py", *line], cwd=tmp_path, capture_output=True, text=True, check=True)
    folder = tmp_path / "out" / "here"
    told = [text for text in done.stdout.splitlines() if text.startswith("PLACE")]
    assert told == [f"PLACE {(str(folder), f'a={value}')}" for value in (1, 2)]
    done = subprocess.run([sys.executable, "app.py", "+a=1"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "PLACE None" in done.stdout
