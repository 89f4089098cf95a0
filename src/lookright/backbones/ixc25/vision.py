"""From tiles to projector input: ViT, 2x2 merge, separators.

Shape letters: N tiles, Y and X tiles down and across, P tile pixels, R patches a side, S = R/2 tokens a side,
V vision width, F = 4V merged width, C colours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from lookright.backbones.ixc25.configuration import Ixc25Config

TILES_PER_PASS = 32
"""Most tiles in one ViT pass; bounds memory, changes no value."""


class Ixc25VisionTower(nn.Module):
    """The CLIP ViT under its official name `vision_tower`."""

    def __init__(self, config: Ixc25Config) -> None:
        super().__init__()
        self.select_layer = config.vision_select_layer
        self.vision_tower = CLIPVisionModel(config.vision_config)

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles float[N, 3, P, P] -> patch features before the last norm, float[N, R*R, V], row by row."""
        tiles = tiles.to(self.vision_tower.embeddings.patch_embedding.weight.dtype)
        chunks = [self._features(chunk) for chunk in tiles.split(TILES_PER_PASS)]
        return torch.cat(chunks)[:, 1:]

    def _features(self, tiles: Tensor) -> Tensor:
        if self.select_layer == -1:
            return self.vision_tower(tiles).last_hidden_state
        return self.vision_tower(tiles, output_hidden_states=True).hidden_states[self.select_layer]


def cut_tiles(picture: Tensor, tile: int) -> Tensor:
    """The whole picture squeezed into one tile, then its tiles row by row: float[3, Y*P, X*P] -> [1 + Y*X, 3, P, P].

    Raises ValueError where a side is not a multiple of `tile`.
    """
    _, height, width = picture.shape
    if height % tile or width % tile or not height or not width:
        raise ValueError(f"a preprocessed picture of {width}x{height} pixels does not divide into tiles of {tile}")
    overview = F.interpolate(picture[None].float(), (tile, tile), mode="bicubic").to(picture.dtype)
    grid_CYPXP = picture.reshape(3, height // tile, tile, width // tile, tile)
    return torch.cat([overview, grid_CYPXP.permute(1, 3, 0, 2, 4).reshape(-1, 3, tile, tile)])


def merge_patches(features: Tensor) -> Tensor:
    """Join blocks of 2x2 patches, upper row first: float[N, R*R, V] -> float[N, S, S, F]."""
    side = int(features.shape[1] ** 0.5) // 2
    blocks_NSbSbV = features.reshape(features.shape[0], side, 2, side, 2, features.shape[-1])
    return blocks_NSbSbV.permute(0, 1, 3, 2, 4, 5).flatten(3)


def assemble(merged: Tensor, tiles: tuple[int, int], glb_GN: Tensor, sub_GN: Tensor) -> Tensor:
    """One picture's rows before the projector: overview, separator, tiles; every grid row ends in a separator.

    `merged`: float[1 + Y*X, S, S, F], `tiles`: (Y, X) -> float[(Y*X + 1) S*S + 1 + (Y + 1) S, F].
    """
    down, across = tiles
    side, width = merged.shape[1], merged.shape[-1]
    grid_YSXSF = merged[1:].reshape(down, across, side, side, width).transpose(1, 2)
    grid = grid_YSXSF.reshape(down * side, across * side, width)
    separator = sub_GN.to(merged.dtype).reshape(1, 1, width)

    def ended(rows: Tensor) -> Tensor:
        return torch.cat([rows, separator.expand(rows.shape[0], 1, width)], dim=1).flatten(0, 1)

    return torch.cat([ended(merged[0]), glb_GN.to(merged.dtype).reshape(1, width), ended(grid)])


def picture_rows(tower: Ixc25VisionTower, pixels: Sequence[Tensor], glb_GN: Tensor, sub_GN: Tensor) -> list[Tensor]:
    """Rows of every picture before the projector, all tiles of all pictures through the ViT together.

    `pixels`: float[3, H_i, W_i] each, on the tower's device -> float[N_i, F] each.
    """
    tile = tower.vision_tower.config.image_size
    cut = [cut_tiles(picture, tile) for picture in pixels]
    merged = merge_patches(tower(torch.cat(cut))).split([len(tiles) for tiles in cut])
    shapes = [(picture.shape[1] // tile, picture.shape[2] // tile) for picture in pixels]
    return [assemble(maps, shape, glb_GN, sub_GN) for maps, shape in zip(merged, shapes, strict=True)]
