"""The slow definitions: one row a response, by transformers' own model with eager attention."""

import copy
from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from lookright.backbones.llava import LlavaBackbone
from lookright.packing.batch import Example, Response


def stock_model(backbone: LlavaBackbone, model: PreTrainedModel, attention: str = "eager") -> PreTrainedModel:
    """A model that knows nothing of ours, with the weights of the bare `model`."""
    stock = LlavaForConditionalGeneration(copy.deepcopy(backbone.config)).to(model.dtype)
    stock.set_attn_implementation(attention)
    stock.load_state_dict(model.state_dict())
    return stock.eval()


def stock_policy(backbone: LlavaBackbone, base: PreTrainedModel, policy: PeftModel) -> PeftModel:
    """The stock twin of a LoRA policy on `base`, adapters and all."""
    settings = policy.peft_config["default"]
    config = LoraConfig(r=settings.r, lora_alpha=settings.lora_alpha, target_modules=backbone.lora_targets())
    twin = get_peft_model(stock_model(backbone, base), config)
    missing = twin.load_state_dict(policy.state_dict())
    assert not missing.missing_keys, missing.missing_keys
    return twin.eval()


def row_output(stock: nn.Module, example: Example, response: Response, attentions: bool = False) -> object:
    """The stock forward pass of `[prompt | response]`."""
    return stock(
        input_ids=torch.cat([example.prompt.input_ids, response.token_ids])[None],
        pixel_values=torch.stack(example.pixels).to(next(stock.parameters()).dtype),
        output_attentions=attentions,
    )


def plain_logps(stock: nn.Module, examples: Sequence[Example]) -> Tensor:
    """Summed log-probability of the scored tokens of every response: float[R]."""
    values = []
    for example in examples:
        for response in example.responses:
            length = len(example.prompt.input_ids)
            logps = row_output(stock, example, response).logits[0, length - 1 : -1].log_softmax(-1)
            chosen = logps[torch.arange(len(response.token_ids)), response.token_ids]
            values.append(chosen[response.num_unscored :].sum())
    return torch.stack(values)


def plain_ratios(stock: nn.Module, example: Example, response: Response, rows: slice = slice(None)) -> Tensor:
    """The attention ratio of one response in every layer, from the whole maps: float[num_layers].

    `rows` picks from the rows that predict the response.
    """
    length = len(example.prompt.input_ids)
    ratios = []
    for maps in row_output(stock, example, response, attentions=True).attentions:
        mean_row = maps[0].mean(0)[length - 1 + response.num_unscored : -1, :length][rows].mean(0)
        on_target, on_sources = mean_row @ example.coverage.to(mean_row.dtype)
        ratios.append(on_target / on_sources)
    return torch.stack(ratios)
