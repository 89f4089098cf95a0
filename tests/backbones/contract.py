"""What every backbone keeps, as tests: derive a class, say how the backbone is made, and run it.

    class TestMine(BackboneContract):
        @pytest.fixture(scope="class")
        def case(self) -> Case:
            return Case(make=lambda folder: MyBackbone(path=str(folder)), folder=SMALL_FOLDER)

The folder holds a small model whose weights are far from their usual initialisation, which makes all logits nearly
equal and hides most mistakes. The slow definitions are this model itself: one row a response, no packing, eager
attention, every module's forward as its class has it. That the rows of a picture and the stack are those of the
publication is for the family's own tests.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lookright.answering.adaptive import AdaptiveDecoder
from lookright.answering.decoder import Decoder
from lookright.attention import SOURCES, TARGET
from lookright.backbones.base import Backbone
from lookright.backbones.loading import bare_model
from lookright.errors import RecordError
from lookright.packing.batch import Example, PackedBatch, Response, pack
from lookright.packing.forward import PackedOutput, RatioRead, packed_forward
from lookright.packing.question import DecoderInput
from lookright.reference.adapter_off import AdapterOff
from lookright.reference.base import ModelPair, Reference
from lookright.reference.frozen_copy import FrozenCopy
from lookright.training.compilation import compile_blocks
from lookright.training.memory import StepSettings, peak_memory
from lookright.tuning.full import FullTuning
from lookright.tuning.lora import LoraTuning
from lookright.types import Box, Size, Turn
from tests.compare import assert_close, assert_same_gradients
from tests.examples import LONG, SIZES, gradients, make_example, make_input, noise, shake_adapters, trained_parameters

FLOAT64 = "float64; norms, rotary angles and eager softmax may be float32 inside"
ROWS = {
    "one_to_five_pictures": [(n, ["red", "dark blue circle"]) for n in range(1, 6)],
    "one_token_responses": [(2, ["", "blue circle"]), (1, ["blue circle", ""]), (1, ["", ""])],
    "several_rejected": [(3, ["red", "blue", LONG]), (2, ["red", "", LONG, "no"])],
}
BOTH = [(2, ["red", LONG]), (1, ["blue circle", "no", ""])]
BETA = 0.1


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a backbone is made of a folder, and one small folder with weights."""

    make: Callable[[Path], Backbone]
    folder: Path


class BackboneContract:
    """Text, geometry, packed pass, tuning, answering, folders."""

    @pytest.fixture(scope="class")
    def case(self) -> Case:
        raise NotImplementedError("say how the backbone is made")

    @pytest.fixture(scope="class")
    def backbone(self, case: Case) -> Backbone:
        return case.make(case.folder)

    @pytest.fixture(scope="class")
    def weights(self, backbone: Backbone) -> PreTrainedModel:
        """Float64: no two tokens are so close that rounding would choose between them."""
        return backbone.build().to(torch.float64).eval()

    @pytest.fixture()
    def model(self, weights: PreTrainedModel) -> PreTrainedModel:
        """A copy of one's own."""
        return copy.deepcopy(weights)

    # ---- text ----

    @pytest.mark.parametrize("num_pictures", range(6))
    def test_pictures_are_expanded_to_their_tokens(self, backbone: Backbone, num_pictures: int) -> None:
        text = "".join(f"Image{number + 1}:<image>\n" for number in range(num_pictures)) + "red?"
        encoded = backbone.encode_prompt(text, SIZES[:num_pictures])
        counts = [backbone.token_map(size, num_pictures).num_tokens for size in SIZES[:num_pictures]]
        assert [stop - start for start, stop in encoded.image_spans] == counts and 0 not in counts
        marked = image_mask(encoded.input_ids, encoded.image_spans)
        assert torch.equal(marked, encoded.input_ids == backbone.image_token_id)
        assert encoded.input_ids.dtype == torch.int64 and (encoded.input_ids >= 0).all()
        if backbone.bos_token_id is not None:
            assert encoded.input_ids[0] == backbone.bos_token_id

    def test_answers_go_on_from_the_prompt_and_decode_back(self, backbone: Backbone) -> None:
        prompt, sizes = "Image1:<image>\nred?", SIZES[:1]
        shared, answers = backbone.encode_conversation(prompt, ["blue circle, 12", "no"], sizes)
        asked = backbone.encode_prompt(prompt, sizes)
        assert torch.equal(shared.input_ids, asked.input_ids[: len(shared.input_ids)])
        assert shared.image_spans == asked.image_spans
        for text, ids in zip(["blue circle, 12", "no"], answers, strict=True):
            assert ids[-1] == backbone.end_token_ids[0] and ids[0] != backbone.bos_token_id
            for given in (ids.tolist(), ids.tolist()[:-1], [*ids.tolist(), *answers[0].tolist()]):
                assert backbone.decode(given) == text
        assert backbone.decode([]) == ""

    def test_closed_turns_have_the_ids_that_training_gives_them(self, backbone: Backbone) -> None:
        sizes, history = SIZES[:1], [Turn("Image1:<image>\nred?", "blue <image>, 12")]
        closed = conversation_ids(backbone, *history[0], sizes)
        for prompt in ("what then?", "why?"):
            asked = backbone.encode_prompt(prompt, sizes, history)
            assert asked.input_ids[: len(closed)].tolist() == closed and len(asked.input_ids) > len(closed)
            assert asked.image_spans == backbone.encode_prompt(history[0].question, sizes).image_spans
            closed = conversation_ids(backbone, prompt, "no", sizes, history)
            history.append(Turn(prompt, "no"))

    def test_pictures_of_every_turn_are_expanded(self, backbone: Backbone) -> None:
        history = [Turn("<image>\nred?", "no <image>"), Turn("blue?", "no"), Turn("<image> or <image>?", "no")]
        encoded = backbone.encode_prompt("and <image>?", SIZES[:4], history)
        counts = [backbone.token_map(size, 4).num_tokens for size in SIZES[:4]]
        assert [stop - start for start, stop in encoded.image_spans] == counts
        assert torch.equal(
            image_mask(encoded.input_ids, encoded.image_spans), encoded.input_ids == backbone.image_token_id
        )
        with pytest.raises(RecordError, match="4 <image> for 3 pictures"):
            backbone.encode_prompt("and <image>?", SIZES[:3], history)

    def test_a_byte_of_zero_is_no_text(self, backbone: Backbone) -> None:
        """Records refuse NUL, and what a model answers is written to records."""
        nul = backbone.text_tokenizer.piece_id("<0x00>")
        if nul is None:
            pytest.skip("its tokenizer has no bytes")
        answer = backbone.encode_conversation("red?", ["blue"], [])[1][0].tolist()[:-1]
        assert backbone.decode([*answer, nul]) == "blue\ufffd"

    @pytest.mark.parametrize(("prompt", "num_pictures"), [("<image> <image>", 1), ("no picture", 1), ("<image>", 0)])
    def test_placeholders_and_pictures_must_match(self, backbone: Backbone, prompt: str, num_pictures: int) -> None:
        with pytest.raises(RecordError, match=f"for {num_pictures} pictures") as caught:
            backbone.encode_prompt(prompt, SIZES[:num_pictures])
        assert caught.value.reason == "placeholders"

    # ---- pictures ----

    @torch.no_grad()
    def test_a_token_map_predicts_what_the_model_makes(self, backbone: Backbone, weights: PreTrainedModel) -> None:
        for count in (1, 3, 5):
            pixels = [backbone.preprocess(noise(size, 0), count) for size in SIZES[:count]]
            assert all(picture.dtype == torch.float32 and picture.shape[0] == 3 for picture in pixels)
            features = backbone.encode_images(weights, pixels)
            maps = [backbone.token_map(size, count) for size in SIZES[:count]]
            assert [len(rows) for rows in features] == [tokens.num_tokens for tokens in maps]
            assert [len(tokens.footprints()) for tokens in maps] == [tokens.num_tokens for tokens in maps]
        assert backbone.encode_images(weights, []) == []

    @torch.no_grad()
    def test_pictures_are_encoded_each_by_itself(self, backbone: Backbone, weights: PreTrainedModel) -> None:
        pixels = make_example(backbone, 5, ["red"]).pixels
        features = backbone.encode_images(weights, pixels)
        permuted = backbone.encode_images(weights, [pixels[place] for place in (3, 0, 4, 1, 2)])
        for place, rows in zip((3, 0, 4, 1, 2), permuted, strict=True):
            assert_close(rows, features[place], atol=1e-6, why=FLOAT64, name=f"rows of picture {place}")

    @pytest.mark.parametrize("size", [(200, 200), (320, 150), (120, 260)], ids=str)
    def test_coverage_adds_up(self, backbone: Backbone, size: Size) -> None:
        width, height = size
        tokens = backbone.token_map(size, 1)
        left, right = tokens.coverage((0, 0, width // 3, height)), tokens.coverage((width // 3, 0, width, height))
        whole = tokens.coverage((0, 0, width, height))
        assert whole.shape == (tokens.num_tokens,) and whole.dtype == torch.float32
        assert_close(left + right, whole, atol=1e-5, why="float32", name="two halves")
        assert whole.min() >= 0 and whole.max() <= 1 + 1e-6 and whole.max() > 0.99
        assert not tokens.coverage((0, 0, 0, 0)).any()
        for number, seen in enumerate(tokens.footprints()):
            if seen is None:
                assert whole[number] == 0
                continue
            assert seen.share == pytest.approx(float(whole[number]), abs=1e-4)
            assert float(tokens.coverage(seen.box)[number]) == pytest.approx(seen.share, abs=1e-4)

    def still_tower(self, backbone: Backbone, model: nn.Module) -> None:
        """Make every token of a picture depend on its own pixels alone, in place; override for another tower.

        Without their linear layers the blocks of a vision transformer hand on what the patch embedding gives.
        """
        for name, part in model.named_modules():
            if name.startswith(backbone.vision_prefix) and isinstance(part, nn.Linear):
                nn.init.zeros_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    @pytest.mark.parametrize("size", [(200, 200), (320, 150), (120, 260)], ids=str)
    @torch.no_grad()
    def test_painting_a_box_changes_the_tokens_that_it_covers(
        self, backbone: Backbone, model: PreTrainedModel, size: Size
    ) -> None:
        self.still_tower(backbone, model)
        tokens = backbone.token_map(size, 1)
        seen = [footprint.box for footprint in tokens.footprints() if footprint is not None]
        # resizing blurs an edge by a fraction of a token, padding rounds by half a pixel
        margin = max(max(box[2] - box[0], box[3] - box[1]) for box in seen) / 2
        inside, outside = [], []
        for box in [
            *(quarter(size, corner) for corner in range(4)),
            *(rounded(box) for box in seen[:: max(1, len(seen) // 9)]),
        ]:
            changed = change(backbone, model, size, box)
            wide = (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
            inside.append(changed[tokens.coverage(box) > 0.5])
            outside.append(changed[tokens.coverage(wide) == 0])
        inside, outside = torch.cat(inside), torch.cat(outside)
        assert len(inside) >= 3 and len(outside) >= 3, "tokens are too large for these pictures"
        least, most = inside.min(), outside.max()
        assert least > 10 * most, f"a covered token moves by {least:.2e}, one that sees nothing of a box by {most:.2e}"

    # ---- the packed pass ----

    @pytest.mark.parametrize("whole_rows", [False, True], ids=["as_built", "whole_rows"])
    @pytest.mark.parametrize("cases", ROWS.values(), ids=ROWS)
    @torch.no_grad()
    def test_packed_equals_plain(
        self, backbone: Backbone, model: PreTrainedModel, cases: list, *, whole_rows: bool
    ) -> None:
        """Log-probabilities, and the attention ratio of three layers against the maps of eager attention."""
        examples = make_examples(backbone, cases)
        logps, ratios = plain(backbone, plain_twin(backbone, model), examples)
        if whole_rows:
            untrim(backbone, model)
        layers = (0, backbone.num_layers // 2, backbone.num_layers - 1)
        found = {layer: run(backbone, model, pack(examples), [layer]) for layer in layers}
        assert_close(found[0].logps, logps, atol=2e-5, rtol=1e-6, why=FLOAT64, name="log-probabilities")
        wanted = [len(response.token_ids) for example in examples for response in example.responses]
        assert found[0].num_tokens.tolist() == wanted
        for layer in layers:
            assert_close(
                found[layer].attention_ratio, ratios[:, layer], atol=1e-5, why=FLOAT64, name=f"ratio of layer {layer}"
            )
        assert logps.std() > 0.05 and ratios.std() > 1e-3, "answers or layers hardly differ: nothing is proven"

    @pytest.mark.parametrize("whole_rows", [False, True], ids=["as_built", "whole_rows"])
    def test_packed_gradients_equal_plain_ones(
        self, backbone: Backbone, model: PreTrainedModel, *, whole_rows: bool
    ) -> None:
        """To everything, adapters and pictures too, of a sum that weighs each number differently."""
        examples = make_examples(backbone, BOTH)
        policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.0).apply(backbone, model)).requires_grad_(True)
        twin = plain_twin(backbone, policy)
        if whole_rows:
            untrim(backbone, bare_model(policy))
        output = run(backbone, bare_model(policy), pack(examples), range(backbone.num_layers))
        logps, ratios = plain(backbone, bare_model(twin), examples)
        found = gradients(weighed(output.logps, output.attention_ratio), policy)
        wanted = gradients(weighed(logps, ratios.mean(1)), twin)
        # some are zero up to rounding, as the bias of keys has it: they have no direction to compare
        sizes = {name: 0.0 if value is None else float(value.norm()) for name, value in wanted.items()}
        least = 1e-7 * max(sizes.values())
        names = [name for name, size in sizes.items() if size > least]
        assert any(name.startswith(prefixes(backbone)) or ".vision" in name for name in map(bare_name, names))
        assert_same_gradients(
            {name: found[name] for name in names}, {name: wanted[name] for name in names}, rtol=1e-4, why=FLOAT64
        )
        rest = [value for name, value in found.items() if name not in names and value is not None]
        assert all(value.norm() <= 10 * least for value in rest), "a gradient where the plain rows have none"

    @torch.no_grad()
    def test_a_prompt_does_not_notice_its_neighbours(self, backbone: Backbone, weights: PreTrainedModel) -> None:
        examples = make_examples(backbone, BOTH)
        alone = torch.cat([run(backbone, weights, pack([example])).logps for example in reversed(examples)])
        together = run(backbone, weights, pack(examples[::-1])).logps
        assert_close(together, alone, atol=1e-5, why=FLOAT64, name="log-probabilities")

    @torch.no_grad()
    def test_a_copy_stands_on_its_own(self, backbone: Backbone, model: PreTrainedModel) -> None:
        """A frozen reference is such a copy: whatever the backbone put on its layers goes with it."""
        batch = pack(make_examples(backbone, BOTH[:1]))
        copied, before = copy.deepcopy(model), run(backbone, model, batch).logps
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(run(backbone, copied, batch).logps, before)

    def test_models_of_one_backbone_share_no_settings(self, backbone: Backbone) -> None:
        first, second = backbone.build(), backbone.build(dtype=torch.bfloat16)
        backbone.language_model(second).set_attn_implementation("eager")
        assert backbone.language_model(first).config._attn_implementation == "lookright"
        assert (first.dtype, second.dtype) == (torch.float32, torch.bfloat16)

    def test_compiling_and_planning_find_their_way(self, backbone: Backbone, model: PreTrainedModel) -> None:
        """`trainer.compile` takes every layer's parts but attention, `trainer.plan` the sizes of the configuration."""
        decoder = backbone.language_model(model)
        numbers = [
            [module.layer_idx for module in layer.modules() if hasattr(module, "layer_idx")] for layer in decoder.layers
        ]
        assert numbers == [[number] for number in range(backbone.num_layers)]
        policy = LoraTuning(r=2, alpha=4).apply(backbone, model)
        settings = StepSettings(compute_bytes=4, mask_bytes=4, gradient_checkpointing=False, copies_policy=False)
        estimate = peak_memory(backbone, policy, model, pack(make_examples(backbone, BOTH[:1])), settings)
        assert all(value > 0 for value in estimate.values()) and estimate
        assert compile_blocks(decoder) >= backbone.num_layers

    # ---- tuning ----

    def test_lora_starts_at_log_two_and_moves_adapters_alone(self, backbone: Backbone, model: PreTrainedModel) -> None:
        """Two steps, since the first matrices get no gradient while the second are zero."""
        policy = LoraTuning(r=2, alpha=4, dropout=0.5).apply(backbone, model)
        pair = ModelPair(backbone, policy, AdapterOff()).train()
        batch = pack(make_examples(backbone, BOTH))
        losses, moved = take_steps(pair, batch, 2)
        assert_close(losses[0], torch.full_like(losses[0], math.log(2)), atol=1e-7, why="float32 logarithm")
        assert moved == {name for name, _ in pair.policy.named_parameters() if ".lora_" in name}
        linear = [name for name, part in model.named_modules() if hasattr(part, "lora_A")]
        assert len(linear) * 2 == len(moved) and len(linear) % backbone.num_layers == 0
        assert not [name for name in linear if name.startswith(prefixes(backbone))]

    def test_a_trained_projector_moves_beside_the_adapters(self, backbone: Backbone, model: PreTrainedModel) -> None:
        policy = LoraTuning(r=2, alpha=4, dropout=0.0, train_projector=True).apply(backbone, model)
        _, moved = take_steps(ModelPair(backbone, policy, FrozenCopy()).train(), pack(make_examples(backbone, BOTH)), 2)
        others = {bare_name(name) for name in moved if ".lora_" not in name}
        assert others and all(name.startswith(backbone.projector_prefix) for name in others)

    @pytest.mark.parametrize(("projector", "vision"), [(False, False), (True, False), (True, True)])
    def test_full_tuning_moves_what_it_says(
        self, backbone: Backbone, model: PreTrainedModel, *, projector: bool, vision: bool
    ) -> None:
        policy = FullTuning(train_projector=projector, train_vision=vision).apply(backbone, model)
        pair = ModelPair(backbone, policy, FrozenCopy()).train()
        batch = pack(make_examples(backbone, BOTH))
        start = pair.reference_logps(batch, pair.image_features(batch))
        losses, moved = take_steps(pair, batch, 1)
        assert_close(losses[0], torch.full_like(losses[0], math.log(2)), atol=1e-7, why="float32 logarithm")
        parts = {backbone.projector_prefix: projector, backbone.vision_prefix: vision}
        for prefix, trains in parts.items():
            assert any(name.startswith(prefix) for name, _ in model.named_parameters()), f"{prefix} names nothing"
            assert any(name.startswith(prefix) for name in moved) == trains, prefix
        decoder = backbone.language_model(model)
        own = {id(parameter) for parameter in decoder.parameters()}
        assert {name for name, parameter in model.named_parameters() if id(parameter) in own} & moved
        assert torch.equal(pair.reference_logps(batch, pair.image_features(batch)), start)

    def test_an_adapter_switched_off_is_the_base_model_to_the_last_bit(
        self, backbone: Backbone, model: PreTrainedModel
    ) -> None:
        batch = pack(make_examples(backbone, BOTH))
        with torch.no_grad():
            wanted = run(backbone, model, batch).logps
        policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.5).apply(backbone, model))
        pair = ModelPair(backbone, policy, AdapterOff()).train()
        trained = trained_parameters(pair).keys()
        assert torch.equal(pair.reference_logps(batch, pair.image_features(batch)), wanted)
        assert trained_parameters(pair).keys() == trained
        assert (pair.score(batch, pair.image_features(batch)).logps - wanted).abs().max() > 1e-3

    def test_gradient_checkpointing_changes_nothing(self, backbone: Backbone, model: PreTrainedModel) -> None:
        policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.0).apply(backbone, model))
        pair, batch = ModelPair(backbone, policy, None).train(), pack(make_examples(backbone, BOTH))
        reads = [RatioRead(layers=(0, backbone.num_layers - 1))]

        def objective() -> tuple[Tensor, dict[str, Tensor | None]]:
            output = pair.score(batch, pair.image_features(batch), reads)
            value = weighed(output.logps, output.attention_ratio)
            return value, gradients(value, policy)

        wanted, wanted_gradients = objective()
        pair.model.gradient_checkpointing_enable({"use_reentrant": False})
        pair.train()
        found, found_gradients = objective()
        assert_close(found, wanted, rtol=1e-12, why="the same operations")
        assert_same_gradients(found_gradients, wanted_gradients, rtol=1e-9, why="the same operations")

    # ---- answering ----

    def test_a_batch_of_answers_is_stock_generation_one_by_one(
        self, backbone: Backbone, weights: PreTrainedModel
    ) -> None:
        """Prompts of one to five pictures: all but the longest are padded."""
        inputs = [make_input(backbone, count, target=count - 1, seed=count) for count in (3, 1, 5, 2, 4)]
        found = [answer.token_ids for answer in Decoder(max_new_tokens=6).answer(backbone, weights, inputs)]
        assert found == stock_answers(backbone, weights, inputs, 6)

    def test_with_an_adapter_too(self, backbone: Backbone, model: PreTrainedModel) -> None:
        policy = shake_adapters(LoraTuning(r=2, alpha=4, dropout=0.5).apply(backbone, model), size=1.0).eval()
        inputs = [make_input(backbone, count) for count in (2, 1)]
        found = [answer.token_ids for answer in Decoder(max_new_tokens=4).answer(backbone, policy, inputs)]
        assert found == stock_answers(backbone, policy, inputs, 4)

    @torch.no_grad()
    def test_a_scaled_row_is_read_as_it_is_used(self, backbone: Backbone, weights: PreTrainedModel) -> None:
        """A factor of one is plain decoding; the ratios of the last prompt row are those of eager maps."""
        inputs = [make_input(backbone, count, target=count - 1) for count in (3, 2)]
        decoder = AdaptiveDecoder(max_new_tokens=4, alpha_low=1.0, alpha_high=1.0)
        answers = decoder.answer(backbone, weights, inputs)
        assert [answer.token_ids for answer in answers] == stock_answers(backbone, weights, inputs, 4)
        twin = plain_twin(backbone, weights)
        for item, answer in zip(inputs, answers, strict=True):
            maps = plain_row(backbone, twin, item, torch.tensor([], dtype=torch.long)).attentions
            masses = torch.stack([layer[0].mean(0)[-1] @ item.coverage.double() for layer in maps])
            wanted = masses[:, TARGET] / masses[:, SOURCES]
            assert_close(torch.tensor(answer.scaled_ratios), wanted, atol=1e-5, why=FLOAT64, name="ratio of each layer")

    # ---- folders ----

    @torch.no_grad()
    def test_a_saved_folder_loads_as_it_was(
        self, case: Case, backbone: Backbone, model: PreTrainedModel, tmp_path: Path
    ) -> None:
        """Weights that no file held before, so that nothing comes from the first folder."""
        model.to(torch.float32)
        for name, parameter in model.named_parameters():
            if not name.startswith(backbone.vision_prefix):
                parameter.mul_(1.25)
        backbone.save_pretrained(model, tmp_path)
        again = case.make(tmp_path)
        loaded = again.build().eval()
        assert loaded.state_dict().keys() == model.state_dict().keys()
        differing = [name for name, value in model.state_dict().items() if not value.equal(loaded.state_dict()[name])]
        assert not differing
        one, other = (make_examples(side, BOTH[:1])[0] for side in (backbone, again))
        assert one.prompt.input_ids.tolist() == other.prompt.input_ids.tolist()
        assert all(torch.equal(*pair) for pair in zip(one.pixels, other.pixels, strict=True))
        logps = [run(side, its, pack([one])).logps for side, its in ((backbone, model), (again, loaded))]
        assert torch.equal(*logps)


# ---- the slow definitions ----


def make_examples(backbone: Backbone, cases: Sequence[tuple[int, list[str]]]) -> list[Example]:
    """Examples of (pictures, responses), asked about the last picture."""
    return [make_example(backbone, n, texts, target=n - 1, seed=10 * i) for i, (n, texts) in enumerate(cases)]


def run(backbone: Backbone, model: nn.Module, batch: PackedBatch, layers: Sequence[int] = ()) -> PackedOutput:
    """The packed pass, pictures included."""
    return packed_forward(backbone, model, batch, backbone.encode_images(model, batch.pixels), layers)


def untrim(backbone: Backbone, model: nn.Module) -> None:
    """Give the last layer its class's own forward, which returns whole rows."""
    vars(backbone.language_model(model).layers[-1]).pop("forward", None)


def plain_twin(backbone: Backbone, policy: nn.Module) -> nn.Module:
    """A copy that has nothing of ours: every module's forward is its class's, attention is eager."""
    twin = copy.deepcopy(policy)
    decoder = backbone.language_model(bare_model(twin))
    for module in decoder.modules():
        vars(module).pop("forward", None)
    decoder.set_attn_implementation("eager")
    return twin.eval()


def conversation_ids(
    backbone: Backbone, prompt: str, answer: str, sizes: Sequence[Size], history: Sequence[Turn] = ()
) -> list[int]:
    """Prompt and response of a turn as training has them, the end token last."""
    shared, (response,) = backbone.encode_conversation(prompt, [answer], sizes, history)
    return [*shared.input_ids.tolist(), *response.tolist()]


def image_mask(ids: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """bool[L], True on pictures."""
    mask = torch.zeros(len(ids), dtype=torch.bool)
    for start, stop in spans:
        mask[start:stop] = True
    return mask


def embedded(
    backbone: Backbone, model: nn.Module, item: Example | DecoderInput, after: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """Embeddings of the prompt and the tokens `after` it, and the decoder's further arguments."""
    ids = torch.cat([item.prompt.input_ids, after])
    mask = image_mask(ids, item.prompt.image_spans)[None]
    embeds = backbone.merge_images(model, ids[None], mask, backbone.encode_images(model, item.pixels))
    return embeds, backbone.decoder_kwargs(mask)


def plain_row(backbone: Backbone, twin: nn.Module, item: Example | DecoderInput, after: Tensor) -> Any:
    """One row through the decoder: last hidden states and the attention maps of all layers."""
    embeds, further = embedded(backbone, twin, item, after)
    positions = torch.arange(embeds.shape[1])[None]
    decoder = backbone.language_model(twin)
    return decoder(inputs_embeds=embeds, position_ids=positions, use_cache=False, output_attentions=True, **further)


def plain(backbone: Backbone, twin: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all responses float[R]; ratios of first responses in every layer float[P, layers]."""
    logps, ratios = [], []
    for example in examples:
        for number, response in enumerate(example.responses):
            output = plain_row(backbone, twin, example, response.token_ids)
            logps.append(_logp(twin, output.last_hidden_state[0], example, response))
            if number == 0:
                ratios.append(_ratios(output.attentions, example))
    return torch.stack(logps), torch.stack(ratios)


def _logp(twin: nn.Module, states: Tensor, example: Example, response: Response) -> Tensor:
    predicting = states[len(example.prompt.input_ids) - 1 : -1]
    logps = twin.get_output_embeddings()(predicting).log_softmax(-1)
    return logps[torch.arange(len(response.token_ids)), response.token_ids].sum()


def _ratios(attentions: Sequence[Tensor], example: Example) -> Tensor:
    """Share of the sources' attention that the target has, over the rows that predict the response."""
    length = len(example.prompt.input_ids)
    rows = torch.stack([maps[0].mean(0)[length - 1 : -1, :length].mean(0) for maps in attentions])
    masses = rows @ example.coverage.to(rows.dtype)
    return masses[:, TARGET] / masses[:, SOURCES]


@torch.no_grad()
def stock_answers(
    backbone: Backbone, policy: nn.Module, inputs: Sequence[DecoderInput], max_new_tokens: int
) -> list[list[int]]:
    """transformers' own greedy generation of each prompt by itself, on a model that has nothing of ours."""
    twin = bare_model(plain_twin(backbone, policy))
    found = []
    for item in inputs:
        embeds, further = embedded(backbone, twin, item, torch.tensor([], dtype=torch.long))
        (ids,) = twin.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=backbone.end_token_ids,
            pad_token_id=backbone.pad_token_id,
            **further,
        ).tolist()
        found.append(ids)
    return found


# ---- tuning and painting ----


def prefixes(backbone: Backbone) -> tuple[str, str]:
    """Of tower and projector."""
    return backbone.vision_prefix, backbone.projector_prefix


def bare_name(name: str) -> str:
    """A parameter's name without PEFT's wrapper."""
    return name.removeprefix("base_model.model.")


def weighed(logps: Tensor, ratios: Tensor) -> Tensor:
    """A sum in which no two errors cancel."""
    values = torch.cat([logps, 10 * ratios.to(logps.dtype)])
    return (values * torch.linspace(-1.0, 1.5, len(values), dtype=values.dtype)).sum()


def take_steps(pair: ModelPair, batch: PackedBatch, num_steps: int) -> tuple[list[Tensor], set[str]]:
    """Steps on DPO (arXiv 2305.18290, eq. 7), a prompt's first response against each other; losses, what moved."""
    assert isinstance(pair.reference, Reference)
    before = {name: parameter.detach().clone() for name, parameter in pair.policy.named_parameters()}
    optimizer = torch.optim.AdamW(trained_parameters(pair.policy).values(), lr=1e-3, weight_decay=0.0)
    first = batch.first_response.tolist()
    stops = [*first[1:], batch.scored.num_responses]
    losses = []
    for _ in range(num_steps):
        features = pair.image_features(batch)
        rewards = BETA * (pair.score(batch, features).logps - pair.reference_logps(batch, features))
        margins = [rewards[chosen] - rewards[chosen + 1 : stop] for chosen, stop in zip(first, stops, strict=True)]
        loss = -F.logsigmoid(torch.cat(margins))
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return losses, {name for name, value in pair.policy.named_parameters() if not torch.equal(value, before[name])}


def quarter(size: Size, corner: int) -> Box:
    """A quarter of a picture, with one of its corners."""
    left, top = (corner % 2) * (size[0] // 2), (corner // 2) * (size[1] // 2)
    return left, top, left + size[0] // 2, top + size[1] // 2


def rounded(box: tuple[float, float, float, float]) -> Box:
    """A box of whole pixels, of at least one."""
    left, top = round(box[0]), round(box[1])
    return left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))


def change(backbone: Backbone, model: nn.Module, size: Size, box: Box) -> Tensor:
    """How far each of a black picture's tokens moves when the box is painted with noise: float[num_tokens]."""
    black = Image.new("RGB", size)
    painted = black.copy()
    painted.paste(noise((box[2] - box[0], box[3] - box[1]), 0), box[:2])
    before, after = backbone.encode_images(model, [backbone.preprocess(image, 1) for image in (black, painted)])
    return (after - before).norm(dim=1)
