"""Specs of the parts of a classifier, their check and the construction of the classifier."""

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
from imgrec.models.features.feature_maps import MapShape, last_map_shape, map_shapes, output_shapes, with_maps
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
        backbone: Spec of :data:`imgrec.models.BACKBONES`. Defaults to ``resnet18``.
        head: Spec of :data:`imgrec.models.HEADS`. Defaults to ``linear``.
        normalize: Normalization of the images. See :func:`imgrec.models.resolve_normalize`. Defaults to ``auto``.
        neck: Spec of :data:`imgrec.models.NECKS`, which fuses maps of several stages. Defaults to no neck.
        pooling: Spec of :data:`imgrec.models.POOLINGS`. Defaults to the pooling of the backbone, or after a neck to the
            mean of each map.
        edits: Specs of :data:`imgrec.models.EDITS`, which change layers of the backbone. Defaults to no edit.
        init: Specs of :data:`imgrec.models.INITIALIZERS` for initial values. Defaults to the values of the layers. They
            have no effect on a trained classifier.

    >>> ClassifierSpecs("resnet18", pooling="gem").is_plain
    False
    """

    backbone: Spec = "resnet18"
    head: Spec = "linear"
    normalize: Normalize = "auto"
    neck: Spec | None = None
    pooling: Spec | None = None
    edits: Specs | None = None
    init: Specs | None = None

    @classmethod
    def from_dict(cls, specs: Self | Mapping[str, Any], where: str = "specs") -> Self:
        """Return the specs in a mapping of the form of :meth:`to_dict`. Objects of this class are returned unchanged.

        Raises:
            KeyError: If ``backbone``, ``head`` or ``normalize`` is missing.
            UserError: If a key is no part of a classifier in this version of imgrec.

        >>> ClassifierSpecs.from_dict({"backbone": "resnet18", "head": "cosine", "normalize": "auto"}).head
        'cosine'
        """
        if isinstance(specs, cls):
            return specs
        if not isinstance(specs, Mapping):
            raise UserError(f"{where}: expected a mapping with the parts of a classifier, got {specs!r}.")
        known = [field.name for field in fields(cls)]
        unknown = [key for key in specs if key not in known]
        if unknown:
            raise UserError(
                f'{where}: expected parts of a classifier, which are {", ".join(known)}, got "{unknown[0]}".'
            )
        return cls(**{key: specs[key] for key in known if key in _ALWAYS or key in specs})

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the specs among the arguments of a task. Other arguments are ignored.

        Raises:
            KeyError: If ``backbone``, ``head`` or ``normalize`` is missing.
        """
        names = [field.name for field in fields(cls)]
        return cls(**{name: arguments[name] for name in names if name in _ALWAYS or name in arguments})

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping for :meth:`from_dict`, without parts that are ``None``.

        >>> ClassifierSpecs("resnet18", neck="fpn").to_dict()
        {'backbone': 'resnet18', 'head': 'linear', 'normalize': 'auto', 'neck': 'fpn'}
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in values.items() if key in _ALWAYS or value is not None}

    @property
    def is_plain(self) -> bool:
        """True for a backbone and a head only, which timm can build as well."""
        return set(self.to_dict()) - {"init"} == set(_ALWAYS)

    def without_initial_values(self) -> Self:
        """Return the specs without ``pretrained``, ``weights`` and ``init``, for a trained classifier."""
        name, arguments = BACKBONES.parse(self.backbone)
        kept = {k: v for k, v in arguments.items() if k not in ("pretrained", "weights")}
        return replace(self, backbone={"name": name, **kept} if kept else name, init=None)

    def check(self, where: str = "model", load_weights: bool = True) -> None:
        """Raise the errors of :meth:`build` that follow from the specs alone.

        Args:
            where: Key in the config that contains the parts.
            load_weights: ``False`` allows missing ``weights`` of the backbone, for example before a checkpoint is
                loaded.

        Raises:
            SpecError: If a part is invalid. The message contains its key.
        """
        prefix = f"{where}." if where else ""
        place = f"{prefix}backbone"
        BACKBONES.check(self.backbone, place, _FACTS)
        name, arguments = BACKBONES.parse(self.backbone, place)
        check_weights = getattr(BACKBONES.entry(name, place).factory, "check_weights", None)
        if load_weights and check_weights is not None:
            try:
                check_weights(**arguments)
            except UserError as error:
                raise SpecError(f"{place}.weights: {error}") from error
        HEADS.check(self.head, f"{prefix}head", (*_FACTS, "feature_dim"))
        check_normalize(self.normalize, f"{prefix}normalize")
        if self.neck is not None:
            NECKS.check(self.neck, f"{prefix}neck", (*_FACTS, "map_channels", "map_sizes"))
        if self.pooling is not None:
            POOLINGS.check(self.pooling, f"{prefix}pooling", (*_FACTS, "map_channels"))
        check_edits(self.edits, f"{prefix}edits", _FACTS)
        check_init(self.init, f"{prefix}init", _FACTS, bool(arguments.get("pretrained") or arguments.get("weights")))
        if set(self.to_dict()) != set(_ALWAYS):
            self._check_on_meta(prefix)

    def build(self, facts: DataFacts, load_weights: bool = True, where: str = "model") -> Classifier:
        """Return the classifier for the data that ``facts`` describes.

        Args:
            facts: Classes, image size and channels of the data.
            load_weights: ``False`` skips ``pretrained`` or ``weights`` of the backbone, and ``init``, because a
                checkpoint or a model folder will set every parameter and buffer.
            where: Key in the config that contains the parts, for messages.

        Raises:
            SpecError: If a spec cannot be built, or if the backbone does not accept the images.
        """
        prefix = f"{where}." if where else ""
        known: dict[str, Any] = {**facts.for_registry(), "load_weights": load_weights}
        backbone = BACKBONES.build(self.backbone, f"{prefix}backbone", **known)
        if not isinstance(backbone, Backbone):
            raise SpecError(
                f"{prefix}backbone: expected an imgrec.models.Backbone, got {type(backbone).__name__} from "
                f"{self.backbone!r}."
            )
        classifier = self._assemble(backbone, known, prefix)
        if load_weights:  # otherwise every value is loaded later
            initialize(classifier, self.init, known, f"{prefix}init")
        return classifier

    def _check_on_meta(self, prefix: str) -> None:
        """Build the classifier on meta tensors for the default image size of the backbone.

        This detects necks that do not match the maps of the backbone, and patterns that match no layer.
        """
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            try:
                backbone = BACKBONES.build(self.backbone, f"{prefix}backbone", load_weights=False)
                facts = DataFacts(tuple(map(str, range(10))), (1,) * 10, self._default_size(backbone))
            except Exception:  # it requires the data or real tensors, so only `build` can check it
                return
            if isinstance(backbone, Backbone):
                known = {**facts.for_registry(), "load_weights": False}
                with suppress(NotImplementedError, RuntimeError):  # a part that requires values
                    classifier = replace(self, normalize="auto")._assemble(backbone, known, prefix)
                    initialize(classifier, self.init, known, f"{prefix}init")

    def _assemble(self, backbone: Backbone, known: dict[str, Any], prefix: str) -> Classifier:
        """Return the classifier around a backbone, with the initial values of its layers."""
        apply_edits(backbone, self.edits, known, f"{prefix}edits")
        channels, size = known["in_channels"], known["image_size"]
        mean, std = resolve_normalize(self.normalize, backbone.mean, backbone.std, channels, f"{prefix}normalize")
        if self.neck is None and self.pooling is None:
            head = HEADS.build(self.head, f"{prefix}head", **known, feature_dim=backbone.feature_dim)
            return Classifier(backbone, head, mean, std)
        neck, pooling = self._build_neck_and_pooling(backbone, known, prefix)
        map_backbone = with_maps(backbone, neck.levels if neck is not None else (), channels, size)
        head = HEADS.build(self.head, f"{prefix}head", **known, feature_dim=pooling.feature_dim)
        return Classifier(map_backbone, head, mean, std, neck, pooling)

    def _default_size(self, backbone: Backbone) -> int:
        """Return the default image size of a backbone."""
        parameter = BACKBONES.entry(BACKBONES.parse(self.backbone)[0]).parameters.get("image_size")
        if parameter is not None and isinstance(parameter.default, int):
            return parameter.default
        config: Any = getattr(backbone.network, "pretrained_cfg", {})
        return int(config.get("input_size", (3, 224, 224))[-1])

    def _build_neck_and_pooling(
        self, backbone: Backbone, known: dict[str, Any], prefix: str
    ) -> tuple[Neck | None, Pooling]:
        """Return the neck and the pooling for the maps of a backbone."""
        title = f'the backbone "{BACKBONES.parse(self.backbone)[0]}"'
        place = f"{prefix}pooling" if self.neck is None else f"{prefix}neck"
        sizes = known["in_channels"], known["image_size"]
        neck = None
        try:
            if self.neck is None:
                channels: tuple[int, ...] = (last_map_shape(backbone, title, *sizes).channels,)
            else:
                maps = map_shapes(backbone, title, *sizes)
                neck = self._build_neck(maps, known, place)
                channels = neck.out_channels
                found = tuple(each.channels for each in output_shapes(neck, [maps[level] for level in neck.levels]))
                if found != channels:
                    raise UserError(
                        f"expected maps of {channels} channels, as in `out_channels`, got {found} from {self.neck!r}."
                    )
        except SpecError:
            raise
        except UserError as error:
            raise SpecError(f"{place}: {error}") from error
        place = f"{prefix}pooling"
        pooling = POOLINGS.build(self.pooling or "average", place, **known, map_channels=channels)
        if not isinstance(pooling, Pooling):
            raise SpecError(
                f"{place}: expected an imgrec.models.Pooling, got {type(pooling).__name__} from {self.pooling!r}."
            )
        return neck, pooling

    def _build_neck(self, maps: tuple[MapShape, ...], known: dict[str, Any], place: str) -> Neck:
        assert self.neck is not None
        shapes = {"map_channels": tuple(m.channels for m in maps), "map_sizes": tuple(m.height for m in maps)}
        neck = NECKS.build(self.neck, place, **known, **shapes)
        if not isinstance(neck, Neck):
            raise SpecError(f"{place}: expected an imgrec.models.Neck, got {type(neck).__name__} from {self.neck!r}.")
        return neck


def check_classifier(
    backbone: Spec,
    head: Spec,
    normalize: Normalize,
    where: str = "model",
    load_weights: bool = True,
    **parts: Any,
) -> None:
    """Check specs with :meth:`ClassifierSpecs.check`. ``parts`` are the optional ones."""
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
    """Build a classifier with :meth:`ClassifierSpecs.build`. ``parts`` are the optional specs.

    >>> import torch
    >>> facts = DataFacts(("cat", "dog"), (50, 50), image_size=32)
    >>> model = build_classifier({"name": "resnet18", "layers": [1, 1, 1, 1]}, "linear", "auto", facts)
    >>> model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 2])
    """
    return ClassifierSpecs(backbone, head, normalize, **parts).build(facts, load_weights, where)
