"""The specs of a classifier as one thing: what a task, a checkpoint and a model folder say of how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch

from imgrec.errors import SpecError, UserError
from imgrec.models.backbones.base import Backbone
from imgrec.models.backbones.catalogue import BACKBONES
from imgrec.models.classifier import Classifier
from imgrec.models.edits.base import apply_edits, check_edits
from imgrec.models.features.feature_maps import MapShape, last_map_shape, map_shapes, shapes_given, with_maps
from imgrec.models.heads.linear import HEADS
from imgrec.models.init.base import check_init, initialize
from imgrec.models.necks.base import NECKS, Neck
from imgrec.models.normalization import Normalize, check_normalize, resolve_normalize
from imgrec.models.pooling import POOLINGS, Pooling
from imgrec.registry import Spec, Specs
from imgrec.types import DataFacts

_FACTS = ("num_classes", "class_names", "class_counts", "image_size", "in_channels", "load_weights")
_ALWAYS = ("backbone", "head", "normalize")


@dataclass(frozen=True)
class ClassifierSpecs:
    """Plain data that names the parts of a classifier, in the order in which images pass through them.

    Args:
        backbone: a spec of :data:`imgrec.models.BACKBONES`.
        head: a spec of :data:`imgrec.models.HEADS`.
        normalize: see :func:`imgrec.models.resolve_normalize`.
        neck: a spec of :data:`imgrec.models.NECKS`, which fuses maps of several stages of the backbone; ``None`` for
            none.
        pooling: a spec of :data:`imgrec.models.POOLINGS`; ``None`` for the backbone's own, or after a neck the mean of
            each map.
        edits: specs of :data:`imgrec.models.EDITS`, which change layers of the backbone; ``None`` for none.
        init: specs of :data:`imgrec.models.INITIALIZERS`, for the values that training starts from; ``None`` leaves
            what each layer draws for itself. Once there are others, they are no part of the classifier.
    """

    backbone: Spec = "resnet18"
    head: Spec = "linear"
    normalize: Normalize = "auto"
    neck: Spec | None = None
    pooling: Spec | None = None
    edits: Specs | None = None
    init: Specs | None = None

    @classmethod
    def of(cls, specs: Self | Mapping[str, Any], where: str = "specs") -> Self:
        """The specs that a mapping holds, as :meth:`to_dict` gives it; specs are left as they are.

        Raises:
            KeyError: backbone, head or normalize are missing.
            UserError: it names a part that a classifier of this imgrec does not have.

        >>> ClassifierSpecs.of({"backbone": "resnet18", "head": "cosine", "normalize": "auto"}).head
        'cosine'
        """
        if isinstance(specs, cls):
            return specs
        if not isinstance(specs, Mapping):
            raise UserError(f"{where}: expected the parts of a classifier, got {specs!r}")
        known = [field.name for field in fields(cls)]
        unknown = [key for key in specs if key not in known]
        if unknown:
            raise UserError(
                f'{where}: a classifier has no part "{unknown[0]}" in this imgrec; known: {", ".join(known)}.'
            )
        return cls(**{key: specs[key] for key in known if key in _ALWAYS or key in specs})

    @classmethod
    def known_to(cls, arguments: Mapping[str, Any]) -> Self:
        """The specs among the arguments of a task, which has others beside them.

        Raises:
            KeyError: backbone, head or normalize are missing.
        """
        names = [field.name for field in fields(cls)]
        return cls(**{name: arguments[name] for name in names if name in _ALWAYS or name in arguments})

    def to_dict(self) -> dict[str, Any]:
        """The inverse of :meth:`of`; a part that is not there is left out.

        >>> ClassifierSpecs("resnet18", neck="fpn").to_dict()
        {'backbone': 'resnet18', 'head': 'linear', 'normalize': 'auto', 'neck': 'fpn'}
        """
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in said.items() if key in _ALWAYS or value is not None}

    @property
    def is_plain(self) -> bool:
        """Whether it is a backbone with a head and nothing else, which timm can build as well."""
        return set(self.to_dict()) - {"init"} == set(_ALWAYS)

    def without_source(self) -> Self:
        """The same without ``pretrained``, ``weights`` and ``init``, in whose place other values have come."""
        name, given = BACKBONES.parse(self.backbone)
        kept = {k: v for k, v in given.items() if k not in ("pretrained", "weights")}
        return replace(self, backbone={"name": name, **kept} if kept else name, init=None)

    def check(self, where: str = "model", load_weights: bool = True) -> None:
        """Raise what :meth:`build` would raise, as far as the specs alone can tell.

        Args:
            where: the place in the config that holds the parts.
            load_weights: whether the backbone's ``weights`` have to be there; not where a checkpoint follows.

        Raises:
            SpecError: it names the place.
        """
        prefix = f"{where}." if where else ""
        place = f"{prefix}backbone"
        BACKBONES.check(self.backbone, place, _FACTS)
        name, given = BACKBONES.parse(self.backbone, place)
        check_weights = getattr(BACKBONES.entry(name, place).factory, "check_weights", None)
        if load_weights and check_weights is not None:
            try:
                check_weights(**given)
            except UserError as error:
                raise SpecError(f"{place}.weights: {error}") from error
        HEADS.check(self.head, f"{prefix}head", (*_FACTS, "feature_dim"))
        check_normalize(self.normalize, f"{prefix}normalize")
        if self.neck is not None:
            NECKS.check(self.neck, f"{prefix}neck", (*_FACTS, "map_channels", "map_sizes"))
        if self.pooling is not None:
            POOLINGS.check(self.pooling, f"{prefix}pooling", (*_FACTS, "map_channels"))
        check_edits(self.edits, f"{prefix}edits", _FACTS)
        check_init(self.init, f"{prefix}init", _FACTS, bool(given.get("pretrained") or given.get("weights")))
        if set(self.to_dict()) != set(_ALWAYS):
            self._try_out(prefix)

    def build(self, facts: DataFacts, load_weights: bool = True, where: str = "model") -> Classifier:
        """The classifier, for the data that ``facts`` describes.

        Args:
            facts: the data's classes, image size and channels.
            load_weights: whether to load the backbone's ``pretrained`` or ``weights``; not where a checkpoint or a
                model folder will fill every parameter and buffer.
            where: the place in the config that holds the parts, for messages.

        Raises:
            SpecError: a spec that cannot be built, images that the backbone cannot take.
        """
        prefix = f"{where}." if where else ""
        known: dict[str, Any] = {**facts.for_registry(), "load_weights": load_weights}
        trunk = BACKBONES.build(self.backbone, f"{prefix}backbone", **known)
        if not isinstance(trunk, Backbone):
            raise SpecError(
                f"{prefix}backbone: {self.backbone!r} gives a {type(trunk).__name__}, not an imgrec.models.Backbone."
            )
        classifier = self._assembled(trunk, known, prefix)
        if load_weights:  # otherwise every value comes from elsewhere
            initialize(classifier, self.init, known, f"{prefix}init")
        return classifier

    def _try_out(self, prefix: str) -> None:
        """Build all of it on meta tensors, for images of the size that the backbone was made for.

        So are found necks that the backbone has no maps for, and patterns that mean no layer.
        """
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            try:
                trunk = BACKBONES.build(self.backbone, f"{prefix}backbone", load_weights=False)
                facts = DataFacts(tuple(map(str, range(10))), (1,) * 10, self._usual_size(trunk))
            except Exception:  # it needs the data, or real tensors: the same is done when it is built for good
                return
            if isinstance(trunk, Backbone):
                known = {**facts.for_registry(), "load_weights": False}
                with suppress(NotImplementedError, RuntimeError):  # a part that asks for values
                    classifier = replace(self, normalize="auto")._assembled(trunk, known, prefix)
                    initialize(classifier, self.init, known, f"{prefix}init")

    def _assembled(self, trunk: Backbone, known: dict[str, Any], prefix: str) -> Classifier:
        """The classifier around a backbone as its spec builds it, with the values that its layers draw themselves."""
        apply_edits(trunk, self.edits, known, f"{prefix}edits")
        channels, size = known["in_channels"], known["image_size"]
        mean, std = resolve_normalize(self.normalize, trunk.mean, trunk.std, channels, f"{prefix}normalize")
        if self.neck is None and self.pooling is None:
            top = HEADS.build(self.head, f"{prefix}head", **known, feature_dim=trunk.feature_dim)
            return Classifier(trunk, top, mean, std)
        neck, pooling = self._after(trunk, known, prefix)
        source = with_maps(trunk, neck.levels if neck is not None else (), channels, size)
        top = HEADS.build(self.head, f"{prefix}head", **known, feature_dim=pooling.feature_dim)
        return Classifier(source, top, mean, std, neck, pooling)

    def _usual_size(self, trunk: Backbone) -> int:
        """The side of the images that a backbone takes where nobody says another."""
        said = BACKBONES.entry(BACKBONES.parse(self.backbone)[0]).parameters.get("image_size")
        if said is not None and isinstance(said.default, int):
            return said.default
        config: Any = getattr(trunk.network, "pretrained_cfg", {})
        return int(config.get("input_size", (3, 224, 224))[-1])

    def _after(self, trunk: Backbone, known: dict[str, Any], prefix: str) -> tuple[Neck | None, Pooling]:
        """What makes features of a backbone's maps."""
        title = f'the backbone "{BACKBONES.parse(self.backbone)[0]}"'
        place = f"{prefix}pooling" if self.neck is None else f"{prefix}neck"
        sizes = known["in_channels"], known["image_size"]
        neck = None
        try:
            if self.neck is None:
                channels: tuple[int, ...] = (last_map_shape(trunk, title, *sizes).channels,)
            else:
                maps = map_shapes(trunk, title, *sizes)
                neck = self._built_neck(maps, known, place)
                channels = neck.out_channels
                given = tuple(each.channels for each in shapes_given(neck, [maps[level] for level in neck.levels]))
                if given != channels:
                    raise UserError(f"{self.neck!r} says it gives maps of {channels} channels, and gives {given}")
        except SpecError:
            raise
        except UserError as error:
            raise SpecError(f"{place}: {error}") from error
        place = f"{prefix}pooling"
        pooling = POOLINGS.build(self.pooling or "average", place, **known, map_channels=channels)
        if not isinstance(pooling, Pooling):
            raise SpecError(
                f"{place}: {self.pooling!r} gives a {type(pooling).__name__}, not an imgrec.models.Pooling."
            )
        return neck, pooling

    def _built_neck(self, maps: tuple[MapShape, ...], known: dict[str, Any], place: str) -> Neck:
        assert self.neck is not None
        shapes = {"map_channels": tuple(m.channels for m in maps), "map_sizes": tuple(m.height for m in maps)}
        neck = NECKS.build(self.neck, place, **known, **shapes)
        if not isinstance(neck, Neck):
            raise SpecError(f"{place}: {self.neck!r} gives a {type(neck).__name__}, not an imgrec.models.Neck.")
        return neck


def check_classifier(
    backbone: Spec,
    head: Spec,
    normalize: Normalize,
    where: str = "model",
    load_weights: bool = True,
    **parts: Any,
) -> None:
    """:meth:`ClassifierSpecs.check` of the specs given one by one; ``parts`` are those that are seldom there."""
    ClassifierSpecs(backbone, head, normalize, **parts).check(where, load_weights)


def build_classifier(
    backbone: Spec,
    head: Spec,
    normalize: Normalize,
    facts: DataFacts,
    load_weights: bool = True,
    where: str = "model",
    **parts: Any,
) -> Classifier:
    """:meth:`ClassifierSpecs.build` of the specs given one by one; ``parts`` are those that are seldom there.

    >>> import torch
    >>> facts = DataFacts(("cat", "dog"), (50, 50), image_size=32)
    >>> model = build_classifier({"name": "resnet18", "layers": [1, 1, 1, 1]}, "linear", "auto", facts)
    >>> model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 2])
    """
    return ClassifierSpecs(backbone, head, normalize, **parts).build(facts, load_weights, where)
