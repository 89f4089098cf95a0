"""Answers scored for the server: what no number can hold is bounded, as `Answerer` bounds it."""

import sys

import pytest
import torch

from lookright.answering.answerer import perplexity
from lookright.answering.scoring import picture_coverage, score_answers
from lookright.backbones.llava import LlavaBackbone
from lookright.composing.asked import asked_prompt
from lookright.packing.encode import encode_question
from lookright.records.held_pictures import HeldPictures
from tests.examples import SIZES, lively_model, noise


def test_perplexity_by_hand() -> None:
    assert perplexity(-6.0, 3) == pytest.approx(7.38905609893065)
    assert perplexity(0.0, 1) == 1 and perplexity(-1e6, 2) == sys.float_info.max


def test_an_answer_that_is_all_but_impossible(llava: LlavaBackbone) -> None:
    model = lively_model(llava, torch.float32)
    model.get_output_embeddings().weight.data *= 1e4
    pictures = HeldPictures([noise(SIZES[0], 0)])
    question = encode_question(llava, asked_prompt(pictures, "what color is it?"), pictures)
    asked = [(question, picture_coverage(llava, question, [SIZES[0]]))]
    ((scored,),) = score_answers(llava, model, asked, [[[5]]], 2, "response")
    assert scored.perplexity == sys.float_info.max and scored.attention == [1.0]
