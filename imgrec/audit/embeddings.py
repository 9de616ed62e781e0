"""Search for near duplicates by the features of a backbone: cropped, slightly rotated and recoloured copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from imgrec.audit.duplicates import DuplicatePair
from imgrec.audit.findings import Inventory
from imgrec.augment import build_transforms
from imgrec.data import BadImage, to_channels
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.errors import UserError
from imgrec.models import BACKBONES, Backbone
from imgrec.registry import Spec
from imgrec.utils.progress import progress_bar
from imgrec.utils.ranges import NonNegativeInt, PositiveInt, check_ranges
from imgrec.utils.seeding import position_generator

_BLOCK = 1024
_NUM_NEIGHBOURS = 5
_MAX_DISTANCE_RATIO = 0.5
_CERTAIN = 0.99


@check_ranges
def embed(
    inventory: Inventory,
    backbone: Spec,
    image_size: PositiveInt = 224,
    batch_size: PositiveInt = 64,
    workers: NonNegativeInt = 0,
) -> tuple[Tensor, Tensor]:
    """Compute the features of every readable image with a backbone, scaled to length 1.

    The whole image is resized to a square. Its aspect ratio changes, and nothing is cropped.

    Args:
        inventory: Audited images.
        backbone: Spec of a backbone with trained weights: ``{name: resnet18, pretrained: true}``.
        image_size: Side of the square, in pixels. Defaults to 224.
        batch_size: Number of images in one forward pass. Defaults to 64.
        workers: Number of decoding processes. Defaults to 0.

    Returns:
        Features, float16 ``(N, feature_dim)``, and positions of their images, int64 ``(N,)``.

    Raises:
        UserError: If the backbone cannot be built, or if it does not accept images of this size.
    """
    where = "--embeddings"
    network = BACKBONES.build(backbone, where, in_channels=3, image_size=image_size, load_weights=True)
    if not isinstance(network, Backbone):
        raise UserError(f"{where}: expected a backbone (imgrec.models.Backbone), got {type(network).__name__}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    mean = torch.tensor(network.mean, device=device).view(-1, 1, 1)
    std = torch.tensor(network.std, device=device).view(-1, 1, 1)
    workers = 0 if inventory.source.in_memory else workers
    images = _SquareImages(inventory, image_size)
    loader = DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=_collate_readable)
    features, positions = (
        [torch.empty(0, network.feature_dim, dtype=torch.float16)],
        [torch.empty(0, dtype=torch.int64)],
    )
    with torch.inference_mode():
        for batch, rows in progress_bar(_batches(loader), len(inventory), "Computing features"):
            if batch is not None:
                pooled = network((batch.to(device) / 255 - mean) / std).pooled
                features.append(F.normalize(pooled.float(), dim=1).half().cpu())
                positions.append(rows)
    return torch.cat(features), torch.cat(positions)


def similar_features(features: Tensor, positions: Tensor, similarity: float | None = None) -> Iterator[DuplicatePair]:
    """Yield pairs of images with a large cosine of their features, at most five for each image.

    The usual cosine of different images depends on the data. It is 0.95 for photographs of one hand on one wall and
    0.5 for photographs of a thousand objects. The default threshold is therefore relative. Each image of a pair must
    be one of the five nearest neighbours of the other. For one of both, the distance (1 - cosine) must be at most half
    the distance to the sixth neighbour. A cosine of 0.99 always counts.

    Memory contains the features and one block of cosines, never the whole matrix.

    Args:
        features: Features of length 1, ``(N, D)``.
        positions: Positions of the images, ``(N,)``.
        similarity: Smallest cosine of a pair, in (0, 1]. Defaults to the relative threshold.
    """
    cosines, others = _neighbours(features)
    if not others.shape[1]:
        return
    distances = (1 - cosines).clamp(min=0)
    if similarity is None:
        near = distances <= _MAX_DISTANCE_RATIO * distances[:, -1:]
        near[:, -1] = False  # the sixth neighbour, or the last one if there are fewer, is the reference
        nearest = others[:, :_NUM_NEIGHBOURS]
        linked = {(i, j) for i, row in enumerate(nearest.tolist()) for j in row}
    else:
        near = cosines >= similarity
    seen: set[tuple[int, int]] = set()
    accepted = near[:, :_NUM_NEIGHBOURS] | (cosines[:, :_NUM_NEIGHBOURS] >= (similarity or _CERTAIN))
    for i, k in accepted.nonzero().tolist():
        j, cosine = int(others[i, k]), float(cosines[i, k])
        left, right = sorted((int(positions[i]), int(positions[j])))
        if (left, right) in seen or (similarity is None and cosine < _CERTAIN and (j, i) not in linked):
            continue
        seen.add((left, right))
        yield DuplicatePair(left, right, f"cosine {cosine:.3f} of the features", cosine, certain=False)


def _neighbours(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of the nearest neighbours of each image, descending, and their rows, both ``(N, <= 6)``."""
    table = features.float()
    count = min(_NUM_NEIGHBOURS + 1, len(table) - 1)
    if count < 1:
        return table.new_empty(len(table), 0), torch.empty(len(table), 0, dtype=torch.int64)
    found = []
    for start in range(0, len(table), _BLOCK):
        block = table[start : start + _BLOCK]
        cosines = block @ table.T
        cosines[torch.arange(len(block)), torch.arange(start, start + len(block))] = -2
        found.append(cosines.topk(count, dim=1))
    return torch.cat([best for best, _ in found]), torch.cat([others for _, others in found])


class _SquareImages(Dataset[tuple[int, Tensor | None]]):
    def __init__(self, inventory: Inventory, image_size: int) -> None:
        self.inventory = inventory
        self.pipeline = build_transforms(["squash"], "--embeddings", image_size=image_size, in_channels=3)

    def __len__(self) -> int:
        return len(self.inventory)

    def __getitem__(self, position: int) -> tuple[int, Tensor | None]:
        try:
            with decoding():
                image = self.inventory.source.load(int(self.inventory.rows[position]))
                return position, self.pipeline(to_channels(image, 3), position_generator(0))
        except BadImage:
            return position, None


_Batch = tuple[Tensor | None, Tensor]


def _collate_readable(samples: list[tuple[int, Tensor | None]]) -> tuple[int, _Batch]:
    images = [image for _, image in samples if image is not None]
    positions = torch.tensor([position for position, image in samples if image is not None])
    return len(samples), (torch.stack(images) if images else None, positions)


def _batches(loader: Any) -> Iterator[_Batch]:
    """Yield each batch, then an empty item for each further image in it, so that the progress bar counts images."""
    for count, batch in loader:
        yield batch
        for _ in range(count - 1):
            yield None, torch.empty(0)
