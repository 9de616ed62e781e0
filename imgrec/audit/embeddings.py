"""Images that a backbone takes for nearly the same: copies that were cropped, turned a little, or coloured anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from imgrec.audit.duplicates import Pair
from imgrec.audit.findings import Inventory
from imgrec.augment import build_transforms
from imgrec.data import BadImage, to_channels
from imgrec.data.progress import shown
from imgrec.errors import UserError
from imgrec.models import BACKBONES, Backbone
from imgrec.randomness import position_generator
from imgrec.registry import Spec

_AT_ONCE = 1024
_NEAREST = 5


def embed(
    inventory: Inventory, backbone: Spec, image_size: int = 224, batch_size: int = 64, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """The features that a backbone gives of every image that can be read, scaled to length 1.

    The whole image is resized to a square, its proportions changed where need be: nothing of it is cut off.

    Args:
        inventory: the images.
        backbone: the spec of a backbone, with weights to be worth anything: ``{name: resnet18, pretrained: true}``.
        image_size: the side of the square.
        batch_size: images in one pass.
        workers: processes that decode.

    Returns:
        The features, float16 ``(N, feature_dim)``, and the positions of these images, int64 ``(N,)``.

    Raises:
        UserError: the backbone cannot be built, or takes no images of this size.
    """
    where = "--embeddings"
    network = BACKBONES.build(backbone, where, in_channels=3, image_size=image_size, load_weights=True)
    if not isinstance(network, Backbone):
        raise UserError(f"{where}: {backbone!r} gives a {type(network).__name__}, not an imgrec.models.Backbone.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    mean = torch.tensor(network.mean, device=device).view(-1, 1, 1)
    std = torch.tensor(network.std, device=device).view(-1, 1, 1)
    workers = 0 if inventory.source.in_memory else workers
    images = _Squares(inventory, image_size)
    loader = DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=_readable)
    features, positions = (
        [torch.empty(0, network.feature_dim, dtype=torch.float16)],
        [torch.empty(0, dtype=torch.int64)],
    )
    with torch.inference_mode():
        for batch, where_from in shown(_batches(loader), len(inventory), "Looking at features"):
            if batch is not None:
                pooled = network((batch.to(device) / 255 - mean) / std).pooled
                features.append(F.normalize(pooled.float(), dim=1).half().cpu())
                positions.append(where_from)
    return torch.cat(features), torch.cat(positions)


def similar_features(features: Tensor, positions: Tensor, similarity: float = 0.95) -> Iterator[Pair]:
    """Pairs whose features point the same way: of each image, up to five with the largest cosines.

    Memory holds the features and one block of cosines, never all of them.

    Args:
        features: ``(N, D)`` of length 1.
        positions: the positions of the images, ``(N,)``.
        similarity: the smallest cosine that counts.
    """
    seen: set[tuple[int, int]] = set()
    table = features.float()
    for start in range(0, len(table), _AT_ONCE):
        block = table[start : start + _AT_ONCE]
        cosines = block @ table.T
        cosines[torch.arange(len(block)), torch.arange(start, start + len(block))] = -1
        best, other = cosines.topk(min(_NEAREST, len(table)), dim=1)
        for i, j in (best >= similarity).nonzero().tolist():
            left, right = sorted((int(positions[start + i]), int(positions[other[i, j]])))
            if left != right and (left, right) not in seen:
                seen.add((left, right))
                cosine = float(best[i, j])
                yield Pair(left, right, f"cosine {cosine:.3f} of the features", cosine, sure=False)


class _Squares(Dataset[tuple[int, Tensor | None]]):
    def __init__(self, inventory: Inventory, image_size: int) -> None:
        self.inventory = inventory
        self.pipeline = build_transforms(["squash"], "--embeddings", image_size=image_size, in_channels=3)

    def __len__(self) -> int:
        return len(self.inventory)

    def __getitem__(self, position: int) -> tuple[int, Tensor | None]:
        try:
            image = self.inventory.source.load(int(self.inventory.rows[position]))
        except BadImage:
            return position, None
        return position, self.pipeline(to_channels(image, 3), position_generator(0))


_Batch = tuple[Tensor | None, Tensor]


def _readable(samples: list[tuple[int, Tensor | None]]) -> tuple[int, _Batch]:
    images = [image for _, image in samples if image is not None]
    positions = torch.tensor([position for position, image in samples if image is not None])
    return len(samples), (torch.stack(images) if images else None, positions)


def _batches(loader: Any) -> Iterator[_Batch]:
    """A batch, and then nothing for each further image in it: the bar counts images."""
    for count, batch in loader:
        yield batch
        for _ in range(count - 1):
            yield None, torch.empty(0)
