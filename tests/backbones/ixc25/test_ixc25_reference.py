"""The model against a slow retelling of it, row by row and head by head, for other sizes and layouts.

The retelling reads a state dict in official names and shares no code with the model.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lookright.backbones.ixc25 import Ixc25ForCausalLM
from lookright.backbones.ixc25.modeling import official_name

TOLERANCE = 5e-6  # in float64, but rotary angles and the overview's resize stay in float32: up to 1.3e-6 was seen


class Slow:
    """The official computation with loops where the model has reshapes."""

    def __init__(self, model: Ixc25ForCausalLM) -> None:
        self.state = {official_name(name): value for name, value in model.state_dict().items()}
        self.config = model.config

    def picture(self, pixels: Tensor) -> Tensor:
        """Rows of one picture before the projector: float[N, 4V]."""
        tile = self.config.vision_config.image_size
        down, across = pixels.shape[1] // tile, pixels.shape[2] // tile
        overview = self.tokens(F.interpolate(pixels[None], (tile, tile), mode="bicubic")[0])
        side = len(overview)
        glb, sub = self.state["plora_glb_GN"].flatten(), self.state["plora_sub_GN"].flatten()
        rows = []
        for y in range(side):
            rows += [*overview[y], sub]
        rows.append(glb)
        for tile_y in range(down):
            maps = [
                self.tokens(pixels[:, tile_y * tile : (tile_y + 1) * tile, x * tile : (x + 1) * tile])
                for x in range(across)
            ]
            for y in range(side):
                for tokens in maps:
                    rows += [*tokens[y]]
                rows.append(sub)
        return torch.stack(rows)

    def tokens(self, tile: Tensor) -> list[list[Tensor]]:
        """One tile as a grid of merged tokens, each the concatenation of its 2x2 patches."""
        features = self.vit(tile)
        width = math.isqrt(len(features))
        return [
            [
                torch.cat([features[(y + dy) * width + x + dx] for dy in (0, 1) for dx in (0, 1)])
                for x in range(0, width, 2)
            ]
            for y in range(0, width, 2)
        ]

    def vit(self, tile: Tensor) -> Tensor:
        """Patch features of one tile before the last norm: float[R * R, V]."""
        config, tower = self.config.vision_config, "vit.vision_tower.vision_model."
        get = lambda name: self.state[tower + name]  # noqa: E731
        patch = config.patch_size
        kernel = get("embeddings.patch_embedding.weight").flatten(1)
        patches = [
            kernel @ tile[:, y : y + patch, x : x + patch].flatten()
            for y in range(0, tile.shape[1], patch)
            for x in range(0, tile.shape[2], patch)
        ]
        x = torch.stack([get("embeddings.class_embedding"), *patches]) + get("embeddings.position_embedding.weight")
        norm = lambda x, name: F.layer_norm(x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"), 1e-5)  # noqa: E731
        linear = lambda x, name: x @ get(f"{name}.weight").T + get(f"{name}.bias")  # noqa: E731
        x = norm(x, "pre_layrnorm")
        width = x.shape[-1] // config.num_attention_heads
        for number in range(config.num_hidden_layers):
            layer = f"encoder.layers.{number}."
            normed = norm(x, layer + "layer_norm1")
            q, k, v = (linear(normed, f"{layer}self_attn.{name}_proj") for name in "qkv")
            heads = []
            for head in range(config.num_attention_heads):
                part = slice(head * width, (head + 1) * width)
                heads.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), -1) @ v[:, part])
            x = x + linear(torch.cat(heads, -1), layer + "self_attn.out_proj")
            hidden = linear(norm(x, layer + "layer_norm2"), layer + "mlp.fc1")
            x = x + linear(hidden * torch.sigmoid(1.702 * hidden), layer + "mlp.fc2")
        return x[1:]

    def project(self, rows: Tensor) -> Tensor:
        """The projector with the exact GELU."""
        hidden = rows @ self.state["vision_proj.0.weight"].T + self.state["vision_proj.0.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return hidden @ self.state["vision_proj.2.weight"].T + self.state["vision_proj.2.bias"]

    def linear(self, x: Tensor, name: str, is_image: list[bool]) -> Tensor:
        """A linear layer, its low-rank part on image rows."""
        scale = self.config.plora_alpha / self.config.plora_rank
        rows = []
        for row, image in zip(x, is_image, strict=True):
            out = self.state[f"{name}.weight"] @ row
            if image:
                low = self.state[f"{name}.Plora_A.weight"] @ row
                out = out + scale * (self.state[f"{name}.Plora_B.weight"] @ low)
            rows.append(out)
        return torch.stack(rows)

    def rotate(self, head: Tensor) -> Tensor:
        """Rotary embedding of one head, float[L, D], position by position."""
        width, out = head.shape[-1], []
        for position, row in enumerate(head):
            turned = torch.empty_like(row)
            for i in range(width // 2):
                angle = position * 1e6 ** (-2 * i / width)
                a, b = row[i], row[i + width // 2]
                turned[i] = a * math.cos(angle) - b * math.sin(angle)
                turned[i + width // 2] = b * math.cos(angle) + a * math.sin(angle)
            out.append(turned)
        return torch.stack(out)

    def attention(self, x: Tensor, name: str, is_image: list[bool]) -> Tensor:
        """Grouped causal attention, group by group, query by query."""
        config = self.config
        groups, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        per_group = config.num_attention_heads // groups
        packed = self.linear(x, f"{name}.wqkv", is_image)
        heads = []
        causal = torch.ones(len(x), len(x)).tril() == 0
        for group in range(groups):
            start = group * (per_group + 2) * width
            block = [packed[:, start + i * width : start + (i + 1) * width] for i in range(per_group + 2)]
            key, value = self.rotate(block[-2]), block[-1]
            for query in block[:-2]:
                scores = self.rotate(query) @ key.T / math.sqrt(width)
                heads.append(torch.softmax(scores.masked_fill(causal, -math.inf), -1) @ value)
        return self.linear(torch.cat(heads, -1), f"{name}.wo", is_image)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.state[f"{name}.weight"]

    def logits(self, embeds: Tensor, is_image: list[bool]) -> Tensor:
        """float[L, C] -> float[L, vocabulary]."""
        x = embeds
        for number in range(self.config.num_hidden_layers):
            layer = f"model.layers.{number}"
            x = x + self.attention(self.norm(x, f"{layer}.attention_norm"), f"{layer}.attention", is_image)
            normed = self.norm(x, f"{layer}.ffn_norm")
            gate = self.linear(normed, f"{layer}.feed_forward.w1", is_image)
            up = self.linear(normed, f"{layer}.feed_forward.w3", is_image)
            x = x + self.linear(gate * torch.sigmoid(gate) * up, f"{layer}.feed_forward.w2", is_image)
        return self.norm(x, "model.norm") @ self.state["output.weight"].T


CASES = [
    pytest.param({}, {}, [(1, 1)], id="one tile"),
    pytest.param({"num_key_value_heads": 1}, {}, [(2, 3)], id="one group, 2x3"),
    pytest.param({"num_key_value_heads": 4}, {}, [(3, 1), (1, 2)], id="a group a head, portrait and landscape"),
    pytest.param({"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}, {}, [(1, 4)], id="3 groups"),
    pytest.param({}, {"image_size": 56, "patch_size": 14}, [(2, 2), (1, 1), (2, 1)], id="2 tokens a side"),
    pytest.param({}, {"image_size": 40, "patch_size": 10, "hidden_size": 24}, [(1, 3)], id="patch 10"),
    pytest.param({"plora_rank": 1, "plora_alpha": 3.0}, {"image_size": 28}, [(1, 2), (2, 1)], id="one token a tile"),
]


@pytest.mark.parametrize(("sizes", "vision", "layouts"), CASES)
@torch.no_grad()
def test_model_equals_the_slow_retelling(
    sizes: dict, vision: dict, layouts: list, make_model: Callable, pixels: Callable
) -> None:
    model = make_model(vision, seed=3, **sizes).double()
    slow = Slow(model)
    pictures = [pixels(*layout, seed=i, tile=model.config.tile_size).double() for i, layout in enumerate(layouts)]
    features = model.encode_pictures(pictures)
    expected = [slow.project(slow.picture(picture)) for picture in pictures]
    for ours, theirs in zip(features, expected, strict=True):
        assert (ours - theirs).abs().max() < TOLERANCE
    ids = [5, 7]
    for rows in features:
        ids += [0] * len(rows) + [9, 11]
    is_image = [token == 0 for token in ids]
    embeds = model.get_input_embeddings()(torch.tensor(ids))
    embeds[torch.tensor(is_image)] = torch.cat(expected)
    logits = model(input_ids=torch.tensor([ids]), pixels=pictures).logits[0]
    difference = (logits - slow.logits(embeds, is_image)).abs()
    assert difference.max() < TOLERANCE, f"largest {difference.max()}, mean {difference.mean()}"


def test_passes_through_the_vision_tower_may_be_cut_anywhere(
    make_model: Callable, pixels: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    pictures = [pixels(2, 2), pixels(1, 3, seed=1)]
    whole = model.encode_pictures(pictures)
    monkeypatch.setattr("lookright.backbones.ixc25.vision.TILES_PER_PASS", 2)
    cut = model.encode_pictures(pictures)
    for a, b in zip(whole, cut, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_an_earlier_vision_layer_can_be_selected(make_model: Callable, pixels: Callable) -> None:
    model = make_model(vision_select_layer=-2)
    picture = pixels(1, 1)
    selected = model.vit(picture[None])
    model.vit.vision_tower.encoder.layers = model.vit.vision_tower.encoder.layers[:-1]
    model.vit.select_layer = -1
    assert torch.equal(selected, model.vit(picture[None]))


def test_pictures_that_do_not_divide_into_tiles_are_refused(make_model: Callable) -> None:
    with pytest.raises(ValueError, match="does not divide into tiles of 84"):
        make_model().encode_pictures([torch.zeros(3, 84, 85)])


def test_loss_is_the_mean_over_labels_and_reaches_every_part(make_model: Callable, pixels: Callable) -> None:
    model = make_model()
    pictures = [pixels(1, 2)]
    count = len(model.encode_pictures(pictures)[0])
    ids = torch.tensor([[1, *[0] * count, 5, 6, 7]])
    labels = torch.full_like(ids, -100)
    labels[0, -2:] = ids[0, -2:]
    output = model(input_ids=ids, pixels=pictures, labels=labels)
    logps = output.logits[0, -3:-1].log_softmax(-1)
    assert output.loss.item() == pytest.approx(-(logps[0, 6] + logps[1, 7]).item() / 2, rel=1e-5)
    halved = model(input_ids=ids, pixels=pictures, labels=labels, num_items_in_batch=4).loss
    assert halved.item() == pytest.approx(output.loss.item() / 2, rel=1e-5)
    output.loss.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # post_layernorm is in the checkpoint and unused; in the last layer image rows give keys and values alone
    last = [
        f"model.layers.2.{name}" for name in ("attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    ]
    expected = {f"vit.vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")}
    assert idle == expected | {f"{name}.Plora_{half}.weight" for name in last for half in "AB"}


@torch.no_grad()
def test_outputs_may_be_a_tuple(make_model: Callable) -> None:
    model = make_model()
    ids = torch.tensor([[1, 5, 6]])
    expected = model(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids, return_dict=False)[0], expected)
    model.config.return_dict = False
    assert torch.equal(model(input_ids=ids, use_cache=False)[0], expected)
