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
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.errors import UserError
from imgrec.models import BACKBONES, Backbone
from imgrec.registry import Spec
from imgrec.utils.progress import progress_bar
from imgrec.utils.seeding import position_generator

_AT_ONCE = 1024
_NEAREST = 5
_STANDS_OUT = 0.5
_CERTAIN = 0.99


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
        for batch, where_from in progress_bar(_batches(loader), len(inventory), "Looking at features"):
            if batch is not None:
                pooled = network((batch.to(device) / 255 - mean) / std).pooled
                features.append(F.normalize(pooled.float(), dim=1).half().cpu())
                positions.append(where_from)
    return torch.cat(features), torch.cat(positions)


def similar_features(features: Tensor, positions: Tensor, similarity: float | None = None) -> Iterator[Pair]:
    """Pairs whose features point the same way: of each image, up to five with the largest cosines.

    How alike unlike images are depends on the data: photographs of one hand on one wall have cosines of 0.95, those of
    a thousand things 0.5. So without a ``similarity`` a pair counts where either image sees the other at no more than
    half the distance (1 - cosine) of its sixth nearest image, and both see the other among their five nearest; a
    cosine of 0.99 always counts.

    Memory holds the features and one block of cosines, never all of them.

    Args:
        features: ``(N, D)`` of length 1.
        positions: the positions of the images, ``(N,)``.
        similarity: the smallest cosine that counts; by default it is judged by the neighbours.
    """
    cosines, others = _neighbours(features)
    if not others.shape[1]:
        return
    distances = (1 - cosines).clamp(min=0)
    if similarity is None:
        near = distances <= _STANDS_OUT * distances[:, -1:]
        near[:, -1] = False  # the sixth is the measure; where there are fewer images, the last one is
        nearest = others[:, :_NEAREST]
        linked = {(i, j) for i, row in enumerate(nearest.tolist()) for j in row}
    else:
        near = cosines >= similarity
    seen: set[tuple[int, int]] = set()
    for i, k in (near[:, :_NEAREST] | (cosines[:, :_NEAREST] >= (similarity or _CERTAIN))).nonzero().tolist():
        j, cosine = int(others[i, k]), float(cosines[i, k])
        left, right = sorted((int(positions[i]), int(positions[j])))
        if (left, right) in seen or (similarity is None and cosine < _CERTAIN and (j, i) not in linked):
            continue
        seen.add((left, right))
        yield Pair(left, right, f"cosine {cosine:.3f} of the features", cosine, sure=False)


def _neighbours(features: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosines of each image with others, falling, and which these are: ``(N, up to 6)`` both."""
    table = features.float()
    count = min(_NEAREST + 1, len(table) - 1)
    if count < 1:
        return table.new_empty(len(table), 0), torch.empty(len(table), 0, dtype=torch.int64)
    found = []
    for start in range(0, len(table), _AT_ONCE):
        block = table[start : start + _AT_ONCE]
        cosines = block @ table.T
        cosines[torch.arange(len(block)), torch.arange(start, start + len(block))] = -2
        found.append(cosines.topk(count, dim=1))
    return torch.cat([best for best, _ in found]), torch.cat([others for _, others in found])


class _Squares(Dataset[tuple[int, Tensor | None]]):
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
