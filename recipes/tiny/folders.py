"""Folders for the small backbones: a tokenizer and a configuration made from plain text and a few numbers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaImageProcessorPil, PreTrainedTokenizerFast

from lookright.types import IMAGE_PLACEHOLDER


def train_tokenizer(texts: Iterable[str], vocab_size: int, specials: Sequence[str], bos: str) -> Tokenizer:
    """Byte-level BPE over `texts`, digits one by one, `bos` in front: every text encodes, frequent words are whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def write_llava_folder(
    folder: Path,
    texts: Iterable[str],
    *,
    vocab_size: int,
    text: dict[str, int],
    vision: dict[str, int],
    max_length: int = 4096,
    vision_feature_layer: int = -2,
) -> None:
    """Write config, tokenizer and image processor of a fresh LLaVA; weights come from training.

    `text` and `vision` are keyword arguments of LlamaConfig and CLIPVisionConfig (sizes).
    """
    specials = ["<unk>", "<s>", "</s>", IMAGE_PLACEHOLDER]
    raw = train_tokenizer(texts, vocab_size, specials, bos="<s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        additional_special_tokens=[IMAGE_PLACEHOLDER],
        model_max_length=max_length,
    )
    config = LlavaConfig(
        text_config=LlamaConfig(
            vocab_size=raw.get_vocab_size(),
            max_position_embeddings=max_length,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=False,
            **text,
        ),
        vision_config=CLIPVisionConfig(**vision),
        image_token_id=raw.token_to_id(IMAGE_PLACEHOLDER),
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    side = vision["image_size"]
    processor = LlavaImageProcessorPil(
        do_pad=True,
        do_center_crop=False,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
