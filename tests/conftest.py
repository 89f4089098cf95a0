"""Shared fixtures: small random models that need no download."""

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from lookright.backbones.llava import LlavaBackbone
from lookright.config.entry import CONFIG_FOLDER
from lookright.config.schema import register
from lookright.records.records import write_jsonl
from lookright.types import Preference, Region
from recipes.tiny.folders import write_llava_folder

WORDS = (
    "USER: ASSISTANT: Image1: In Image2, what color is the shape? red blue green circle triangle yes no "
    "Regarding the central picture, is there a square here?"
)
ANSWERS = ("red", "blue", "green", "yes", "no", "circle", "triangle", "square")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # a shell starts what runs behind it so, and commands that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of pictures lies in a folder of this session, for its commands too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKRIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder without weights: 6 layers, grouped heads, 9 tokens a picture."""
    folder = tmp_path_factory.mktemp("llava")
    write_llava_folder(
        folder,
        [WORDS],
        vocab_size=330,
        text={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        vision={
            "image_size": 42,
            "patch_size": 14,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
        },
    )
    return folder


@pytest.fixture(scope="session")
def llava(llava_folder: Path) -> LlavaBackbone:
    """The backbone of `llava_folder`."""
    return LlavaBackbone(path=str(llava_folder))


@pytest.fixture()
def picture() -> "callable":
    """Make a noise picture of a size from a seed."""

    def make(size: tuple[int, int], seed: int = 0) -> Image.Image:
        return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))

    return make


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def llava_weights(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`llava_folder` with random weights, as a command takes it for `backbone.path`."""
    folder = tmp_path_factory.mktemp("llava_weights")
    torch.manual_seed(0)
    backbone = LlavaBackbone(path=str(llava_folder))
    backbone.save_pretrained(backbone.build(weights=False), folder)
    return folder


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """A command's config with overrides, as the command line makes it: composed("train", "seed=1")."""
    register()

    def make(command: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose(command, overrides=list(overrides))

    return make


@pytest.fixture(scope="session")
def pairs() -> Callable[..., Path]:
    """Write `count` pairs of two formats below a folder: pairs(folder, count, prefix)."""

    def write(folder: Path, count: int = 14, prefix: str = "pair") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "preferences.jsonl", [_pair(folder, prefix, number) for number in range(count)])
        return folder / "preferences.jsonl"

    return write


@pytest.fixture(scope="session")
def pairs_file(pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pairs."""
    return pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def small_run(llava_weights: Path, pairs_file: Path) -> list[str]:
    """Overrides of train.py that make a run of seconds."""
    return [
        f"backbone.path={llava_weights}",
        f"data.path={pairs_file}",
        "tuning.r=2",
        "tuning.alpha=4",
        "tuning.dropout=0.3",
        "optimizer.lr=0.01",
        "trainer.progress_bar=false",
        "data.val_fraction=0.2",
        "data.batch_size=2",
    ]


def _pair(folder: Path, prefix: str, number: int) -> Preference:
    """Two or three pictures in a row, or two in one."""
    rng = random.Random(f"{prefix}/{number}")
    sequence = number % 2 == 0
    count = rng.choice([2, 3]) if sequence else 2
    names = [f"images/{prefix}{number}_{place}.png" for place in range(count if sequence else 1)]
    size = (20, 16) if sequence else (40, 16)
    (folder / "images").mkdir(exist_ok=True)
    for name in names:
        Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3)).save(folder / name)
    if sequence:
        regions = [Region(picture=place, box=(0, 0, *size), source=f"{place}") for place in range(count)]
        prompt = "".join(f"Image{place + 1}:<image>\n" for place in range(count)) + "In Image2, what color is it?"
    else:
        regions = [Region(picture=0, box=(20 * place, 0, 20 * place + 20, 16), source=f"{place}") for place in range(2)]
        prompt = "<image>\nIn Image2, what shape is it?"
    chosen, rejected = rng.sample(ANSWERS, 2)
    return Preference(
        id=f"{prefix}{number}",
        images=names,
        prompt=prompt,
        chosen=chosen,
        rejected=[f"{rejected} {rejected}" if number % 3 else rejected],
        format="sequence" if sequence else "grid_collage",
        target=1,
        regions=regions,
    )
