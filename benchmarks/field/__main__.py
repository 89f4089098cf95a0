"""Real clients against `infer.py`: a test set of ours through OpenAI's client, VLMEvalKit and lmms-eval.

python generate.py source=fashion_mnist split=test stage=compose 'formats=[sequence,single_image]' \
    '+weights={sequence:4,single_image:1}' '+composers.sequence.mixture={2:1,3:1,4:1,5:1}' num_prompts=200 \
    output=outputs/field/test
python -m benchmarks.field --data outputs/field/test/instructions.jsonl --folder outputs/field \
    --evalkit ENV/bin/python --lmms ENV/bin/python

One line of JSON a client and backbone, also in `results.jsonl` of the folder. docs/benchmarks_field.md says how the two
environments are made.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.field.clients import Told, ask_evalkit, ask_lmms, ask_openai
from benchmarks.field.convert import Prepared, prepare
from benchmarks.serve import running_server

BACKBONES = ("tiny_llava", "tiny_ixc25")


def main() -> None:
    """Print one line of JSON a client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--evalkit", type=Path, help="Python of the environment with ms-vlmeval")
    parser.add_argument("--lmms", type=Path, help="Python of the environment with lmms-eval")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    arguments = parser.parse_args()
    prepared = prepare(arguments.data, arguments.folder)
    with open(arguments.folder / "results.jsonl", "w") as file:
        for backbone in arguments.backbones:
            for line in measured(backbone, prepared, arguments.folder / backbone, arguments.evalkit, arguments.lmms):
                print(json.dumps(line), flush=True)
                print(json.dumps(line), file=file, flush=True)


def measured(
    backbone: str, prepared: Prepared, folder: Path, evalkit: Path | None, lmms: Path | None
) -> Iterator[dict[str, Any]]:
    """Every client held against `infer.py` on the pictures that it sends, those without loss and JPEG."""
    ours = {kind: infer(backbone, getattr(prepared, kind), folder / f"infer_{kind}") for kind in ("png", "jpeg")}
    with running_server(f"backbone={backbone}", "limits.seconds=600") as (_, address):
        yield compared(backbone, "openai", "png", ask_openai(address, prepared), ours)
        if lmms is not None:
            yield compared(backbone, "lmms-eval", "png", ask_lmms(lmms, address, prepared, folder / "lmms"), ours)
        if evalkit is None:
            return
        for sent in ours:
            for kind, told in ask_evalkit(evalkit, sent, address, prepared, folder / f"evalkit_{sent}").items():
                yield compared(backbone, f"VLMEvalKit {kind}", sent, told, ours)


def infer(backbone: str, data: Path, output: Path) -> Told:
    """What `infer.py` answers, and its accuracy by the rule `exact`."""
    command = ["infer.py", f"data.path={data / 'instructions.jsonl'}", f"backbone={backbone}", f"output={output}"]
    subprocess.run([sys.executable, *command, "metrics.accuracy.rule=exact"], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    right = sum(line["correct"] for line in lines)
    return Told(answers={line["id"]: line["prediction"] for line in lines}, score=100 * right / len(lines))


def compared(backbone: str, client: str, sent: str, told: Told, ours: dict[str, Told]) -> dict[str, Any]:
    """How many answers equal `infer.py`'s, on the pictures that were sent and on the original ones, and both scores."""
    same = {kind: sum(told.answers.get(key) == text for key, text in one.answers.items()) for kind, one in ours.items()}
    line = {"backbone": backbone, "client": client, "sent": sent, "questions": len(told.answers)}
    line |= {"equal": same[sent], "equal_to_original_pictures": same["png"]}
    return line | {"score": told.score, "our_score": ours[sent].score}


if __name__ == "__main__":
    main()
