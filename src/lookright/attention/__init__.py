"""Attention as the method needs it: packed rows, read rows, scaled rows."""

from lookright.attention.interface import ATTENTION_NAME, lookright_attention, use_lookright_attention
from lookright.attention.layout import PackedLayout, build_layout
from lookright.attention.packed import PackedCall, suffix_attention
from lookright.attention.rows import SOURCES, TARGET, RowRecorder, attention_ratio, even_ratio
from lookright.attention.scaling import ImageScaling, scaled_image_attention

__all__ = [
    "ATTENTION_NAME",
    "ImageScaling",
    "PackedCall",
    "PackedLayout",
    "SOURCES",
    "TARGET",
    "RowRecorder",
    "attention_ratio",
    "build_layout",
    "even_ratio",
    "scaled_image_attention",
    "suffix_attention",
    "lookright_attention",
    "use_lookright_attention",
]
