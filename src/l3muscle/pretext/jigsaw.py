"""Source task: solving jigsaw puzzles, a self-supervised task on slices without outlines (Section 2.2).

A slice is cut into 3 x 3 tiles, the tiles are shuffled by one of fifty permutations, and nine branches that share one
ResNet tell by which (Noroozi and Favaro 2016). What would let a network cheat is taken away as they do it: a tile is
cut at random out of a larger cell, so that edges do not continue from one tile into the next, and every tile is brought
to one mean and deviation, so that a slow change of brightness across the slice tells nothing. Images are never
mirrored here: a tile of a mirrored slice could not be told from its counterpart on the other side.
"""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from l3muscle.models import IMAGENET_MEAN, IMAGENET_STD, build_encoder
from l3muscle.preprocess import to_network_input
from l3muscle.pretext.unlabelled import UnlabelledTask
from l3muscle.settings import AugmentationSettings, Positive, PositiveFloat, UnlabelledSettings
from l3muscle.training import Task

if TYPE_CHECKING:
    from l3muscle.profile import Profile

SIDE = 3
TILES = SIDE * SIDE
VALIDATION_BATCH = 16
FLAT = 1e-3  # a tile whose deviation is below this share of the window is air


class JigsawSettings(UnlabelledSettings):
    """Jigsaw puzzles of 3 x 3 tiles (Noroozi and Favaro 2016)."""

    permutations: Annotated[int, Field(ge=2, le=362_880)]
    tile_share: Annotated[PositiveFloat, Field(le=1)]  # of a tile's side in that of its ninth of the slice
    embedding: Positive  # features of a tile
    hidden: Positive  # features of a puzzle
    validation_puzzles: Positive  # of each validation slice


def _affine_permutations() -> np.ndarray:
    """The 72 maps x -> a x + b over the field of nine elements: (8, 9, 9), one permutation for each a and b.

    Two of them agree nowhere if they share a, and in exactly one place if they do not (two lines meet once).
    """
    # Element 3 u + v stands for u i + v over the field of three, with i * i = -1.
    high, low = np.divmod(np.arange(9), 3)
    product = ((high[:, None] * low + low[:, None] * high) % 3) * 3 + (low[:, None] * low - high[:, None] * high) % 3
    total = ((high[:, None] + high) % 3) * 3 + (low[:, None] + low) % 3
    return total[np.arange(9)[None, :, None], product[1:, None, :]]


def permutation_set(n_tiles: int = TILES, size: int = 50, seed: int = 0) -> np.ndarray:
    """Permutations that differ from each other in as many places as can be (Hamming distance).

    For nine tiles and up to 72 permutations, every two differ in at least eight of nine places: they are the affine
    maps over the field of nine elements, taken in whole families that differ everywhere. For fifty the mean distance is
    8.155, and no fifty permutations have a larger one: fifty entries in nine values agree at least 115 times in each
    place. The greedy search of Noroozi and Favaro (2016) builds any other set, or continues this one: each permutation
    added has the greatest least distance to those before, and among these the greatest mean distance.

    Parameters
    ----------
    n_tiles : int
        2 to 9.
    size : int
        Number of permutations.
    seed : int
        Decides which of the equally good sets.

    Returns
    -------
    ndarray of int64, (size, n_tiles)
        Row k lists which tile lies at each place.

    Raises
    ------
    ValueError
        If there are not so many permutations, or more tiles than can be searched.
    """
    if not 2 <= n_tiles <= 9:
        raise ValueError(f"n_tiles must be from 2 to 9, not {n_tiles}")
    if not 1 <= size <= math.factorial(n_tiles):
        raise ValueError(f"size must be from 1 to {math.factorial(n_tiles)} for {n_tiles} tiles, not {size}")
    rng = np.random.default_rng(np.random.SeedSequence([0x71C5, seed]))
    names, places = rng.permutation(n_tiles), rng.permutation(n_tiles)
    if n_tiles == TILES:
        # Renaming tiles and places moves no distance.
        chosen = names[rng.permutation(_affine_permutations()).reshape(72, 9)[:size][:, places]]
    else:
        chosen = names[None]
    if size > len(chosen):
        everything = np.array(list(itertools.permutations(range(n_tiles))), dtype=np.int8)
        least, total = np.full(len(everything), n_tiles), np.zeros(len(everything), dtype=np.int64)
        members = list(chosen)
        for number in range(size):
            if number == len(members):
                # The distance to itself is 0, so no permutation is taken twice.
                members.append(everything[np.lexsort((total, least))[-1]].astype(np.int64))
            distance = (everything != members[number]).sum(axis=1)
            least, total = np.minimum(least, distance), total + distance
        chosen = np.stack(members)
    return chosen.astype(np.int64)


def tile_size(shape: tuple[int, int], share: float) -> tuple[int, int]:
    """Rows and columns of a tile: `share` of a cell of the 3 x 3 grid over an image of `shape`."""
    return max(1, int(share * (shape[0] // SIDE))), max(1, int(share * (shape[1] // SIDE)))


def cut_tiles(images: Tensor, size: tuple[int, int], *, generator: Generator) -> Tensor:
    """Cut each image into nine tiles, each at a random place inside its cell.

    Parameters
    ----------
    images : Tensor, (N, 1, H, W)
    size : (int, int)
        Rows and columns of a tile, at most those of a cell.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, (N, 9, rows, columns)
        In reading order.
    """
    corners = []
    for length, tile in zip(images.shape[-2:], size, strict=True):
        cell = length // SIDE
        slack = torch.randint(0, cell - tile + 1, (len(images), SIDE, SIDE), generator=generator)
        corners.append(slack)
    rows = corners[0] + torch.arange(SIDE)[:, None] * (images.shape[-2] // SIDE)
    columns = corners[1] + torch.arange(SIDE) * (images.shape[-1] // SIDE)
    rows = rows.flatten(1)[..., None] + torch.arange(size[0])  # (N, 9, rows)
    columns = columns.flatten(1)[..., None] + torch.arange(size[1])  # (N, 9, columns)
    image = torch.arange(len(images)).view(-1, 1, 1, 1)
    device = images.device
    return images[image.to(device), 0, rows[..., :, None].to(device), columns[..., None, :].to(device)]


def level_tiles(tiles: Tensor) -> Tensor:
    """Bring every tile to the mean and deviation that ImageNet's images have; a tile of air stays flat.

    Parameters
    ----------
    tiles : Tensor, (N, 9, rows, columns)

    Returns
    -------
    Tensor of the same shape
    """
    mean, deviation = tiles.mean((-2, -1), keepdim=True), tiles.std((-2, -1), keepdim=True)
    return sum(IMAGENET_MEAN) / 3 + sum(IMAGENET_STD) / 3 * (tiles - mean) / deviation.clamp_min(FLAT)


class JigsawNetwork(nn.Module):
    """Nine branches of one shared encoder, whose pooled features are joined and classified.

    Parameters
    ----------
    encoder : nn.Sequential
        From `l3muscle.models.build_encoder`; what is carried over to the target network.
    permutations : int
        Number of classes.
    embedding, hidden : int
        Features of a tile, and of the whole puzzle.
    """

    def __init__(self, encoder: nn.Sequential, *, permutations: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.backbone = encoder
        self.tile = nn.Sequential(nn.Linear(encoder.out_channels, embedding), nn.ReLU())
        self.puzzle = nn.Sequential(nn.Linear(TILES * embedding, hidden), nn.ReLU(), nn.Linear(hidden, permutations))

    def forward(self, tiles: Tensor) -> Tensor:
        """Map shuffled tiles (N, 9, 3, rows, columns) to logits (N, permutations)."""
        features = self.backbone(tiles.flatten(0, 1)).mean((2, 3))  # (9 N, channels)
        return self.puzzle(self.tile(features).unflatten(0, (-1, TILES)).flatten(1))


class Jigsaw(UnlabelledTask):
    """Puzzles of a cohort's slices.

    Parameters
    ----------
    images : Tensor, (N, 1, H, W)
        Prepared by `l3muscle.preprocess`.
    settings : JigsawSettings
    augmentation : AugmentationSettings
        Its mirroring is left out.
    seed : int
        Of the validation part, its fixed puzzles and the choice of permutations.
    """

    def __init__(
        self, images: Tensor, settings: JigsawSettings, augmentation: AugmentationSettings, *, seed: int
    ) -> None:
        unmirrored = augmentation.model_copy(update={"flip_probability": 0.0})
        super().__init__(images, settings, unmirrored, seed=seed)
        self.classes = settings.permutations
        self.size = tile_size(tuple(images.shape[-2:]), settings.tile_share)
        self.permutations = torch.from_numpy(permutation_set(size=settings.permutations, seed=seed))
        generator = torch.Generator().manual_seed(seed)
        repeated = self.validation_images.repeat(settings.validation_puzzles, 1, 1, 1)
        self._validation_puzzles = self.puzzles(repeated, generator)

    def puzzles(self, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Cut and shuffle each image: tiles (N, 9, rows, columns) in [0, 1] as they lie, and permutations (N,)."""
        drawn = torch.randint(len(self.permutations), (len(images),), generator=generator)
        tiles = cut_tiles(images, self.size, generator=generator)
        order = self.permutations[drawn].to(images.device)
        return tiles[torch.arange(len(images), device=images.device)[:, None], order], drawn.to(images.device)

    def network_input(self, tiles: Tensor) -> Tensor:
        """Tiles (N, 9, rows, columns) as the network takes them: (N, 9, 3, rows, columns)."""
        return to_network_input(level_tiles(tiles).flatten(0, 1)[:, None]).unflatten(0, (-1, TILES))

    def training_batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """New puzzles: input (N, 9, 3, rows, columns) and the number of the permutation (N,)."""
        tiles, drawn = self.puzzles(self.draw(generator), generator)
        return self.network_input(tiles), drawn

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same puzzles at every call."""
        for tiles, drawn in zip(*(part.split(VALIDATION_BATCH) for part in self._validation_puzzles), strict=True):
            yield self.network_input(tiles), drawn

    def examples(self, network: nn.Module, device: str, count: int) -> dict[str, np.ndarray]:
        """The first `count` validation puzzles with the network's answers, for a picture.

        Returns
        -------
        dict of str to ndarray
            `tiles` (count, 9, rows, columns) as they lie, in [0, 1]; `permutation` and `guess` (count, 9), which place
            of the slice the network's input holds at each place, in truth and as guessed.
        """
        tiles, drawn = (part[:count] for part in self._validation_puzzles)
        network.eval()
        with torch.inference_mode():
            guesses = network(self.network_input(tiles).to(device)).argmax(1)
        return {
            "tiles": tiles.cpu().numpy(),
            "permutation": self.permutations[drawn.cpu()].numpy(),
            "guess": self.permutations[guesses.cpu()].numpy(),
        }


def build(profile: "Profile", images: Tensor, *, seed: int, device: str) -> tuple[nn.Module, Task]:
    """The untrained network of this source task and its task; parameters as in `l3muscle.pretext.SourceTask`."""
    settings = profile.sources.jigsaw
    task = Jigsaw(images.to(device), settings, profile.augmentation, seed=seed)
    network = JigsawNetwork(
        build_encoder(**dict(profile.network)),
        permutations=task.classes,
        embedding=settings.embedding,
        hidden=settings.hidden,
    )
    return network, task
