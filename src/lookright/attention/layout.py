"""Where prompts and responses lie in one padding-free row.

A row holds several groups; a group is one prompt with its responses:

    [ prompt without its last token | last prompt token | response 0 | response 1 | ... ]
      '------- prefix (P) --------'   '------------------ suffix (S) ----------------'

Every token of the prefix sees the prefix before it: plain causal attention. A suffix token sees the
whole prefix, the last prompt token, and the tokens of its own response before it. A response's last
token predicts nothing that is scored, so it is not in the row. Positions restart after the prompt for
every response, which makes the row equal to the separate rows (prefix sharing, arXiv 2410.20305).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Group:
    """One prompt and its responses: `start` in the row, `num_prefix` and `num_suffix` tokens."""

    start: int
    num_prefix: int
    num_suffix: int

    @property
    def split(self) -> int:
        """First token of the suffix in the row."""
        return self.start + self.num_prefix

    @property
    def num_tokens(self) -> int:
        """Prefix and suffix."""
        return self.num_prefix + self.num_suffix

    @property
    def stop(self) -> int:
        """One past the group's last token in the row."""
        return self.split + self.num_suffix


@dataclass(slots=True, kw_only=True)
class PackedLayout:
    """The groups of one row.

    `suffix_index`: int64[sum S], the row index of every suffix token. `visible`: for each group
    bool[S, S], True where the suffix token of a row may see the suffix token of a column. `prefix_starts`:
    int32[groups + 1], where each prefix begins among all prefix tokens, and their number.
    """

    groups: list[Group]
    suffix_index: Tensor
    visible: list[Tensor]
    prefix_starts: Tensor

    @property
    def prefix_lengths(self) -> list[int]:
        """Prefix tokens of each group."""
        return [group.num_prefix for group in self.groups]

    @property
    def num_tokens(self) -> int:
        """Tokens in the row."""
        return self.groups[-1].stop


def build_layout(prompt_lengths: list[int], response_lengths: list[list[int]]) -> PackedLayout:
    """Layout of prompts of `prompt_lengths` tokens (each >= 1) with the given numbers of response inputs.

    A response of n scored tokens has n - 1 inputs, so a length of 0 is a response of one token.
    """
    assert len(prompt_lengths) == len(response_lengths), "one list of responses a prompt"
    groups: list[Group] = []
    start = 0
    for prompt_length, lengths in zip(prompt_lengths, response_lengths, strict=True):
        assert prompt_length >= 1, "a prompt has at least its first token"
        group = Group(start=start, num_prefix=prompt_length - 1, num_suffix=1 + sum(lengths))
        groups.append(group)
        start = group.stop
    suffix_index = torch.cat([torch.arange(group.split, group.stop) for group in groups])
    starts = torch.tensor([0, *(group.num_prefix for group in groups)]).cumsum(0).int()
    visible = [_visible(lengths) for lengths in response_lengths]
    return PackedLayout(groups=groups, suffix_index=suffix_index, visible=visible, prefix_starts=starts)


def _visible(lengths: list[int]) -> Tensor:
    """Visibility among suffix tokens: bool[S, S]; owner 0 is the shared last prompt token."""
    # lengths [2, 1] -> owner [0, 1, 1, 2]: a row sees its own response up to itself, and what nobody owns
    owner = torch.repeat_interleave(torch.arange(len(lengths) + 1), torch.tensor([1, *lengths]))
    causal = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
    return causal & ((owner[:, None] == owner[None, :]) | (owner[None, :] == 0))
