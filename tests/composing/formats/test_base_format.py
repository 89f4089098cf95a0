import random
from collections import Counter

import pytest

from lookright.common.layouts import fit_within
from lookright.composing.formats.base import has_bounding_box, lower_first
from lookright.composing.formats.grid_collage import GridCollage
from lookright.composing.formats.pic_in_pic import PicInPic
from lookright.composing.formats.sequence import SequenceFormat
from lookright.composing.formats.single import SingleImage
from lookright.composing.sources.base import Source
from lookright.errors import ConfigError
from lookright.types import SourceRow


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the dog [0.12, 0.3, 0.55, 0.9]", True),
        ("[1,2,3,4]", True),
        ("at [.5,0,1,1].", True),
        ("pick one of [1, 2, 3]", False),
        ("[a, b, c, d]", False),
        ("(1, 2, 3, 4)", False),
        ("[1,2,3,4,5]", False),
    ],
)
def test_bounding_box_is_four_numbers_in_brackets(text: str, found: bool) -> None:
    assert has_bounding_box(text) is found


def test_rows_with_a_bounding_box_stay_out_where_pictures_move() -> None:
    boxed = SourceRow(id="a", picture="a", question="Where is the dog?", answer="[0.1, 0.2, 0.3, 0.4]")
    plain = SourceRow(id="b", picture="b", question="Where is the dog?", answer="left")
    assert [f().accepts(boxed) for f in (SequenceFormat, GridCollage, PicInPic, SingleImage)] == [
        True,
        False,
        False,
        True,
    ]
    assert all(f().accepts(plain) for f in (SequenceFormat, GridCollage, PicInPic, SingleImage))


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((80, 40), (448, 448), (448, 224)),  # enlarged, width decides
        ((28, 28), (448, 448), (448, 448)),
        ((1000, 2000), (448, 448), (224, 448)),  # shrunk, height decides
        ((30, 90), (45, 33), (11, 33)),
        ((1, 5000), (448, 448), (1, 448)),  # never less than a pixel
    ],
)
def test_fit_within_keeps_the_aspect(size: tuple[int, int], bounds: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_within(size, bounds) == expected


def test_only_the_first_letter_is_lowered() -> None:
    assert lower_first("What colour is the BMW?") == "what colour is the BMW?"
    assert (
        lower_first("Provide a caption.\nReference OCR token: EXIT") == "provide a caption.\nReference OCR token: EXIT"
    )
    # the published prompts make no exception
    assert [lower_first(text) for text in ("I see?", "USA?", "7 of 9?", "")] == ["i see?", "uSA?", "7 of 9?", ""]


@pytest.mark.parametrize(
    ("composer", "shares"),
    [
        (SequenceFormat(), {2: 0.55, 3: 0.16, 4: 0.16, 5: 0.13}),
        (GridCollage(), {2: 53 / 101, 3: 16 / 101, 4: 16 / 101, 6: 8 / 101, 9: 8 / 101}),
        (PicInPic(), {2: 1.0}),
        (SequenceFormat(mixture={2: 0, 5: 3, 4: 1}), {5: 0.75, 4: 0.25}),
    ],
)
def test_counts_follow_the_mixture(composer: SequenceFormat, shares: dict[int, float]) -> None:
    """Five standard deviations of a binomial count of 10,000 draws."""
    rng = random.Random(3)
    counts = Counter(composer.draw_count(rng) for _ in range(10_000))
    assert set(counts) == set(shares)
    for count, share in shares.items():
        assert abs(counts[count] - 10_000 * share) <= 5 * (10_000 * share * (1 - share)) ** 0.5, (count, counts)


def test_a_wrong_mixture_names_key_and_valid_numbers() -> None:
    with pytest.raises(ConfigError, match=r"composers.grid_collage.mixture has no use for 5; valid are 2, 3, 4, 6, 9"):
        GridCollage(mixture={5: 1})
    with pytest.raises(ConfigError, match=r"composers.sequence.mixture\[3\]=-1"):
        SequenceFormat(mixture={2: 1, 3: -1})
    with pytest.raises(ConfigError, match="at least one weight"):
        SequenceFormat(mixture={2: 0})


def test_composers_refuse_a_wrong_number_and_a_repeated_picture(ten_pictures: Source) -> None:
    rows = ten_pictures.rows("train")
    with pytest.raises(ValueError, match="not 6"):
        SequenceFormat().compose(rows[0], rows[1:6], ten_pictures.open, random.Random(0))
    with pytest.raises(ValueError, match="comes twice"):
        SequenceFormat().compose(rows[0], [rows[1], rows[0]], ten_pictures.open, random.Random(0))
