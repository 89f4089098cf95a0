"""Pretraining: prompts, labels of tokens, Muon against its definition, phases and their schedule."""

import random
from pathlib import Path

import pytest
import torch

from lookright.backbones.llava import LlavaBackbone
from lookright.composing.formats.grid_collage import GridCollage
from lookright.composing.formats.pic_in_pic import PicInPic
from lookright.composing.formats.sequence import SequenceFormat
from lookright.composing.formats.single import SingleImage
from lookright.composing.sources.fashion_mnist import CLASS_NAMES, FashionMnist
from lookright.errors import ConfigError
from lookright.types import IMAGE_PLACEHOLDER
from recipes.tiny.data import PhaseDataset, PretrainData, VisionBatch, collate
from recipes.tiny.fresh import fresh_llava
from recipes.tiny.initialization import initialise
from recipes.tiny.module import Optimization, PretrainModule
from recipes.tiny.muon import MUON_SHARE, MuonAdamW, orthogonalised
from recipes.tiny.phases import Phase
from recipes.tiny.prompts import PictureLabels, PromptMaker

COMPOSERS = {
    composer.name: composer
    for composer in (SingleImage(), SequenceFormat(), GridCollage(cell_size=112, margin=10), PicInPic(min_side=84))
}
EVEN = dict.fromkeys(COMPOSERS, 1.0)


def phase(kind: str = "language", **changes: object) -> Phase:
    return Phase(**({"kind": kind, "steps": 4, "batch_size": 3, "weights": EVEN} | changes))


def maker(**changes: object) -> PromptMaker:
    return PromptMaker(FashionMnist(), "train", list(COMPOSERS.values()), phase(**changes), varied=True)


def test_questions_name_images_that_have_their_answers() -> None:
    prompts = maker()
    for seed in range(60):
        asked = prompts.make(random.Random(seed))
        assert asked.prefix.count(IMAGE_PLACEHOLDER) == len(asked.pictures)
        for text, answer, place in asked.questions:
            shown = prompts.row_of(asked.regions[place])
            assert answer == shown.answer
            if asked.format in ("sequence", "grid_collage"):
                assert text.startswith(f"In Image{place + 1}, ")


def test_each_question_is_a_whole_conversation_behind_what_all_share(llava: LlavaBackbone) -> None:
    prompts, lengths = maker(), set()
    data = PhaseDataset(llava, [prompts], None, 20, "seed")
    for number in range(20):
        asked = prompts.make(_after_choice(f"seed/{number}", prompts))
        sizes = [picture.size for picture in asked.pictures]
        example = data[number].example
        shared = example.prompt.input_ids
        for (text, answer, _), response in zip(asked.questions, example.responses, strict=True):
            prompt, (wanted,) = llava.encode_conversation(asked.prefix + text, [answer], sizes)
            assert torch.equal(torch.cat([shared, response.token_ids]), torch.cat([prompt.input_ids, wanted]))
            assert torch.equal(response.token_ids[response.num_unscored :], wanted)
            assert example.prompt.image_spans == prompt.image_spans
        # the pictures at least are shared, and all text before the first difference
        assert len(shared) >= example.prompt.image_spans[-1][1]
        first = {int(response.token_ids[0]) for response in example.responses}
        assert len(first) > 1 or len(example.responses) == 1
        lengths.add(len(example.responses))
    assert max(lengths) > 1


def test_tokens_get_the_class_of_the_cell_that_they_see(llava: LlavaBackbone) -> None:
    labels = PictureLabels([["circle"], CLASS_NAMES])
    prompts = maker(weights={"grid_collage": 1.0})
    data = PhaseDataset(llava, [prompts], labels, 12, "seed")
    for number in range(12):
        asked = prompts.make(_after_choice(f"seed/{number}", prompts))
        _, found = data[number]
        token_map = llava.token_map(asked.pictures[0].size, 1)
        for region in asked.regions:
            inside = token_map.coverage(region.box) > 0.99
            wanted = CLASS_NAMES.index(prompts.row_of(region).answer)
            assert set(found[inside, 1].tolist()) <= {wanted}
        assert (found[:, 0] == -100).all()


def _after_choice(seed: str, prompts: PromptMaker) -> random.Random:
    """The generator as it is when the data set asks its maker."""
    rng = random.Random(seed)
    rng.choice([prompts])
    return rng


def test_orthogonalised_is_near_the_polar_factor() -> None:
    for shape in ((8, 20), (20, 8), (6, 6)):
        matrix = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonalised(matrix)
        # the iteration ends with singular values in about [0.7, 1.2], not at 1
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.3
        assert values.max() < 1.3
        assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.95


def test_a_matrix_steps_against_its_gradient_and_decays() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = MuonAdamW([], [weight], lr=0.1 / MUON_SHARE, weight_decay=0.5)
    weight.grad = torch.eye(4)
    optimizer.step()
    assert torch.diagonal(weight).max() < 1 - 0.1 * 0.5
    off_diagonal = weight.detach()[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full_like(off_diagonal, 1 - 0.1 * 0.5))


def test_the_other_parameters_step_as_by_adamw() -> None:
    """Three steps, with another kind of parameter beside them, through a saved and loaded state."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 5)) for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    matrix = torch.nn.Parameter(torch.randn(4, 4))
    options = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    both, adamw = MuonAdamW([weights[0]], [matrix], **options), torch.optim.AdamW([weights[1]], **options)
    for _ in range(3):
        gradient = torch.randn(3, 5)
        for weight in weights:
            weight.grad = gradient.clone()
        matrix.grad = torch.randn(4, 4)
        both.step()
        adamw.step()
        again = MuonAdamW([weights[0]], [matrix], **options)
        again.load_state_dict(both.state_dict())
        both = again
    torch.testing.assert_close(weights[0], weights[1], atol=0, rtol=0)
    assert "average" in both.state[matrix]


def test_a_closure_sees_every_group() -> None:
    """It clears gradients through the optimiser, so a group that it missed would keep adding up."""
    weight, matrix = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = MuonAdamW([weight], [matrix], lr=0.01)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight * matrix).sum()
        loss.backward()
        return loss

    for _ in range(3):
        before = weight.detach().clone()
        optimizer.step(closure)
        torch.testing.assert_close(matrix.grad, before)


def test_initial_matrices_have_the_size_of_their_inputs(llava: LlavaBackbone) -> None:
    model = llava.build(weights=False)
    initialise(model, llava.num_layers)
    layer = llava.language_model(model).layers[0]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(48**-0.5 / 12**0.5, rel=0.1)


def test_one_batch_of_each_kind_lowers_its_loss_and_the_tower_rests(llava: LlavaBackbone) -> None:
    model = llava.build(weights=False)
    initialise(model, llava.num_layers)
    labels = PictureLabels([CLASS_NAMES])
    phases = [phase("vision"), phase()]
    module = PretrainModule(llava, model, labels.sizes, Optimization(learning_rate=3e-3), phases)
    vision = collate([PhaseDataset(llava, [maker()], labels, 8, "a")[number] for number in range(8)])
    language = collate([PhaseDataset(llava, [maker()], None, 4, "b")[number] for number in range(4)])
    assert isinstance(vision, VisionBatch)
    optimizer = module.configure_optimizers()["optimizer"]

    def losses(step: str, count: int) -> list[float]:
        found = []
        for _ in range(count):
            loss = module.vision_loss(vision)[0] if step == "vision" else module.answers(language).losses.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss))
        return found

    seen = losses("vision", 8)
    assert seen[-1] < 0.8 * seen[0]
    module._rest_tower(renew_projector=True)
    tower = {name: value.clone() for name, value in model.named_parameters() if name.startswith(llava.vision_prefix)}
    said = losses("language", 8)
    assert said[-1] < 0.8 * said[0]
    assert all(torch.equal(value, dict(model.named_parameters())[name]) for name, value in tower.items())


def test_answers_are_held_on_the_image_that_was_asked_about(llava: LlavaBackbone) -> None:
    """Some steps of a phase with the attention term raise the ratio; without it they do not."""
    batch = collate([PhaseDataset(llava, [maker()], None, 8, "c")[number] for number in range(8)])
    raised = []
    for weight in (0.0, 5.0):
        torch.manual_seed(0)
        model = llava.build(weights=False)
        initialise(model, llava.num_layers)
        phases = [phase(attention_weight=weight, steps=20)]
        module = PretrainModule(llava, model, [], Optimization(learning_rate=3e-3), phases)
        optimizer = module.configure_optimizers()["optimizer"]
        module.log = lambda *_, **__: None
        before = module.answers(batch).ratios.mean().item()
        for step in range(8):
            optimizer.zero_grad()
            module.training_step(batch, step).backward()
            optimizer.step()
        raised.append(module.answers(batch).ratios.mean().item() - before)
    assert raised[1] > raised[0] + 0.02


def test_regions_of_questions_are_those_of_the_composer(llava: LlavaBackbone) -> None:
    """Each question's column covers tokens of its own picture alone, and as much as its region."""
    item = PhaseDataset(llava, [maker(weights={"sequence": 1.0})], None, 1, "d")[0]
    batch = collate([item, item])
    assert batch.regions.shape == (2 * item.example.num_tokens, len(item.coverage))
    assert batch.targets.tolist() == item.targets * 2
    second = batch.regions[item.example.num_tokens :]
    for place, (start, stop) in enumerate(item.example.prompt.image_spans):
        column = second[:, place]
        assert column[start:stop].sum() > 0
        assert column.sum() == column[start:stop].sum() == item.coverage[place].sum()
    # sequence pictures fill their regions, so all together cover what each covers
    torch.testing.assert_close(second[:, -1], second[:, :-1].sum(1))


def test_schedule_starts_anew_in_each_phase(llava: LlavaBackbone) -> None:
    phases = [phase(steps=10), phase(steps=20, rate=0.5)]
    module = PretrainModule(llava, llava.build(weights=False), [2], Optimization(warmup=0.2), phases)
    factors = [module._factor(step) for step in range(31)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[10:15] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert factors[9] < 0.2
    assert factors[30] == pytest.approx(0.05)


def test_data_go_through_the_phases_in_order(llava: LlavaBackbone) -> None:
    data = PretrainData(
        [FashionMnist()], COMPOSERS, [phase("vision", steps=2), phase(steps=3)], [CLASS_NAMES], val_prompts=2
    )
    data.prepare(llava)
    kinds = [isinstance(batch, VisionBatch) for batch in data.train_dataloader()]
    assert kinds == [True, True, False, False, False]
    assert len(data.val_set) == 8


def test_bad_phases_are_refused() -> None:
    with pytest.raises(ConfigError, match="valid: vision, language"):
        phase("sound")
    with pytest.raises(ConfigError, match="1 or more"):
        phase(steps=0)


def test_words_of_prompts_are_single_tokens(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
    vision = {"image_size": 42, "patch_size": 14, "hidden_size": 24, "intermediate_size": 32}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = fresh_llava(str(tmp_path), [FashionMnist()], 600, sizes, vision)
    for word in ("Image", *CLASS_NAMES[:9]):
        assert len(backbone.text_tokenizer.encode(f" {word}")) <= (3 if "-" in word else 1)
    text = "A word nobody ever trained on: Żółć 123!"
    _, (response,) = backbone.encode_conversation("", [text], [])
    assert backbone.decode(response.tolist()) == text


def test_misnamed_questions_stand_under_any_image_and_keep_their_own_region() -> None:
    """By hand: with `misnamed` 1 a number says nothing about the region asked about, with 0 it always names it."""
    found = {}
    for share in (0.0, 1.0):
        prompts = maker(weights={"sequence": 1.0, "grid_collage": 1.0}, misnamed=share)
        asked = [prompts.make(random.Random(number)) for number in range(150)]
        named = [
            (int(text.removeprefix("In Image").split(",")[0]) - 1 == place, len(one.regions))
            for one in asked
            for text, _, place in one.questions
        ]
        for one in asked:
            for _, answer, place in one.questions:
                shown = prompts.row_of(one.regions[place]).picture
                assert answer in {row.answer for row in prompts.by_picture[shown]}
        found[share] = (
            sum(right for right, _ in named) / len(named),
            sum(1 / count for _, count in named) / len(named),
        )
    assert found[0.0][0] == 1.0
    right, by_chance = found[1.0]
    assert right == pytest.approx(by_chance, abs=0.08)


def test_misnamed_is_a_share() -> None:
    with pytest.raises(ConfigError, match="misnamed=2"):
        phase(misnamed=2)
