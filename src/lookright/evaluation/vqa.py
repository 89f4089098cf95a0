"""The accuracy of VQA v2: normal form of an answer, and the share of annotators that a prediction agrees with.

Source: Goyal et al., CVPR 2017, with the evaluation of Antol et al., ICCV 2015 (arXiv:1505.00468, section 3 and the
evaluation code of the VQA challenge, whose order of steps this follows).
"""

import re
from collections.abc import Sequence
from statistics import fmean

from lookright.common.answers import ARTICLES, NUMBER_WORDS

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = NUMBER_WORDS | {"none": "0"}
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
}
"""What is written with one apostrophe too few, where that is no other word (`well`, `were`), and what is meant."""
_FULL_STOP = re.compile(r"\.(?!\d)")
_GROUPED_DIGITS = re.compile(r"\d,\d")


def vqa_normal(text: str) -> str:
    """Return an answer in the normal form of VQA: no punctuation and articles, digits for number words to ten.

    A sign is deleted where it stands beside a space anywhere in the answer, or where the answer has a comma between
    digits; else a space takes its place. A full stop goes unless a digit follows.
    """
    given = re.sub(r"[\n\t]", " ", text).strip()
    found = given
    for sign in PUNCTUATION:
        deleted = f"{sign} " in given or f" {sign}" in given or _GROUPED_DIGITS.search(given)
        found = found.replace(sign, "" if deleted else " ")
    words = (NUMBERS.get(word, word) for word in _FULL_STOP.sub("", found).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(prediction: str, truths: Sequence[str]) -> float:
    """Return the accuracy of a prediction, in [0, 1].

    The mean, over the annotators left out one by one, of min(1, agreeing others / 3). Fewer than four answers, of
    which no three others can agree, are alternatives: 1 where the prediction is one of them. Both sides are in normal
    form; the challenge's code leaves ground truths as they are where all are equal, and their articles and number
    words always, which no annotation of VQA v2 needs.
    """
    said, known = vqa_normal(prediction), [vqa_normal(truth) for truth in truths]
    if len(known) < 4:
        return float(said in known)
    agreeing = known.count(said)
    return fmean(min(1.0, (agreeing - (truth == said)) / 3) for truth in known)
