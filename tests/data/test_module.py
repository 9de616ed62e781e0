from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from imgrec.augment import build_transforms, center_crop, resize_short_side
from imgrec.data import ImageDataModule, decode_image, split_source
from imgrec.data.workers import close_workers
from imgrec.errors import SpecError, UserError
from imgrec.types import Batch, DataFacts
from tests.data.helpers import Writer, epoch, folder, is_same, ready

AUGMENTED: list[str | dict[str, Any]] = [{"name": "random_crop", "padding": 2}, "hflip"]


def test_digits_from_end_to_end() -> None:
    module = ready("digits")
    assert module.split_sizes() == {"train": 1439, "val": 179, "test": 179}
    facts = module.facts
    assert facts.num_classes == 10
    assert (facts.image_size, facts.channels) == (8, 3)
    assert sum(facts.class_counts) == 1439
    assert DataFacts.from_dict(facts.to_dict()) == facts
    batches = epoch(module)
    assert len(batches) == len(module.train_dataloader()) == 22  # 1439 // 64: the last one is dropped
    assert all(b.images.shape == (64, 3, 8, 8) and b.images.dtype == torch.uint8 for b in batches)
    assert all(b.targets.dtype == torch.int64 for b in batches)
    seen = [i for loader in (module.val_dataloader(), module.test_dataloader()) for b in loader for i in b.ids]
    assert len(seen) == len(set(seen)) == 358
    assert not set(seen) & {i for b in batches for i in b.ids}
    assert [b.ids for b in module.predict_dataloader()] == [b.ids for b in module.test_dataloader()]
    assert len(module.fingerprint) == 32


def test_all_is_one_batch_of_every_training_image() -> None:
    module = ready("digits", batch_size="all")
    for number in (0, 1):
        (batch,) = epoch(module, number)
        assert len(batch) == len(set(batch.ids)) == module.split_sizes()["train"]
    assert len(next(iter(module.val_dataloader()))) == 179  # evaluated in batches of 256
    with pytest.raises(UserError, match=r"data\.batch_size: expected int > 0 \| Literal\['all'\], got 'most'"):
        ImageDataModule("digits", batch_size="most")  # type: ignore[arg-type]


def test_grey_images_stay_grey_on_request() -> None:
    grey, colour = ready("digits", channels=1), ready("digits")
    first, second = next(iter(grey.val_dataloader())), next(iter(colour.val_dataloader()))
    assert first.images.shape[1] == 1
    assert torch.equal(first.images.expand(-1, 3, -1, -1), second.images)


def test_targets_belong_to_their_ids(classes: Writer) -> None:
    module = ready(folder(classes({"a": 12, "b": 12})), batch_size=5)
    for batch in [*epoch(module), *module.val_dataloader(), *module.test_dataloader()]:
        assert [module.facts.class_names[t] for t in batch.targets.tolist()] == [i.split("/")[0] for i in batch.ids]


def test_the_specs_in_the_facts_repeat_the_evaluation_transforms(classes: Writer) -> None:
    root = classes({"a": 10, "b": 10})
    specs = [{"name": "resize", "scale": 1.5}, "center_crop"]
    module = ready(folder(root), image_size=8, eval_transforms=specs)
    pipeline = build_transforms(module.facts.eval_transforms, "facts", image_size=module.facts.image_size)
    batch = next(iter(module.val_dataloader()))
    for image, name in zip(batch.images, batch.ids, strict=True):
        raw = decode_image(root / name)
        assert torch.equal(image, pipeline(raw))
        assert torch.equal(image, center_crop(resize_short_side(raw, 12), 8))


def test_a_given_size_wins_and_unequal_sides_ask_for_one(classes: Writer, write_image: Writer) -> None:
    root = classes({"a": 10, "b": 10})
    for path in root.rglob("*.png"):
        write_image(path, size=(12, 20))
    with pytest.raises(UserError, match=r"data\.image_size: .*a/00.\.png.*12 x 20"):
        ready(folder(root))
    assert next(iter(ready(folder(root), image_size=16).val_dataloader())).images.shape[-2:] == (16, 16)


def test_no_transform_at_all_is_an_empty_list(classes: Writer) -> None:
    root = classes({"a": 10, "b": 10})
    module = ready(folder(root), train_transforms=[], eval_transforms=[])
    batch = epoch(module)[0]
    assert torch.equal(batch.images[0], decode_image(root / batch.ids[0]))
    with pytest.raises(UserError, match=r"data\.train_transforms: .*24 x 24.*12 x 12"):
        ready(folder(root), image_size=24, train_transforms=["hflip"])


def test_augmentation_is_a_function_of_seed_epoch_and_image() -> None:
    module = ready("digits", train_transforms=AUGMENTED, seed=1)
    first = epoch(module, 3)
    assert is_same(first, epoch(module, 3))
    assert is_same(first, epoch(ready("digits", train_transforms=AUGMENTED, seed=1), 3))
    pixels = {i: image for b in first for i, image in zip(b.ids, b.images, strict=True)}
    later = {i: image for b in epoch(module, 4) for i, image in zip(b.ids, b.images, strict=True)}
    changed = [not torch.equal(pixels[i], later[i]) for i in pixels.keys() & later.keys()]
    assert np.mean(changed) > 0.9
    assert not is_same(first, epoch(ready("digits", train_transforms=AUGMENTED, seed=2), 3))


def test_without_a_seed_it_is_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert is_same(epoch(ready("digits")), epoch(ready("digits", seed=7)))


@pytest.mark.parametrize("cache", ["off", "memory", "disk"])
def test_batches_do_not_depend_on_the_number_of_workers(classes: Writer, cache: str) -> None:
    root = classes({"a": 30, "b": 30})
    (root / "a" / "003.png").write_bytes(b"broken")
    transforms = [{"name": "random_resized_crop", "scale": [0.4, 0.6]}, *AUGMENTED]
    runs = []
    for workers in (0, 1, 2):
        module = ready(folder(root), train_transforms=transforms, num_workers=workers, batch_size=8, cache=cache)
        loader = module.train_dataloader()
        assert loader.persistent_workers == (workers > 0)
        batches = []
        for number in (0, 1):  # the second epoch by the same, persistent, workers
            loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
            batches += list(loader)
        runs.append(batches + list(module.val_dataloader()))
        close_workers()  # the garbage collector would wait five seconds for each of them
    assert is_same(runs[0], runs[1])
    assert is_same(runs[0], runs[2])
    assert [b.skipped for b in runs[0]] == [b.skipped for b in runs[2]]


def test_further_copies_of_an_image_have_draws_of_their_own(classes: Writer) -> None:
    root = classes({"a": 40, "b": 4})
    for transforms in (AUGMENTED, ["random_resized_crop"]):
        module = ready(folder(root), train_transforms=transforms, sampler="balanced", batch_size=8)
        seen: dict[str, list[torch.Tensor]] = {}
        for batch in epoch(module):
            for name, image in zip(batch.ids, batch.images, strict=True):
                seen.setdefault(name, []).append(image)
        copies = [images for images in seen.values() if len(images) > 3]
        assert copies
        assert all(len({image.numpy().tobytes() for image in images}) > 1 for images in copies)


def test_the_trainer_augments_training_batches_and_no_others() -> None:
    class Watching(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: dict[str, Batch] = {}

        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            self.seen.setdefault("train", batch)
            return self.weight * 1.0

        def validation_step(self, batch: Batch, batch_idx: int) -> None:
            self.seen["val"] = batch

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = ImageDataModule("digits", train_transforms=["mixup"], seed=0)
    model = Watching()
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(model, module)
    train, val = model.seen["train"], model.seen["val"]
    assert train.targets.shape == (64, 10)
    assert train.images.is_floating_point()
    assert val.targets.dtype == torch.int64
    assert val.images.dtype == torch.float32
    assert all(
        torch.equal(image, module.source.load(int(i)).expand(3, -1, -1).float() / 255)
        for image, i in zip(val.images, val.ids, strict=True)
    )


def test_a_file_that_disappears_while_training_is_reported_by_its_id(classes: Writer) -> None:
    root = classes({"a": 8, "b": 8})
    module = ready(folder(root), batch_size=4, cache="off")
    epoch(module)
    gone = module.source.ids[int(module.splits.train[3])]
    (root / gone).unlink()
    skipped = [pair for batch in epoch(module, 1) for pair in batch.skipped]
    assert skipped == [(gone, "there is no such file")]


def test_workers_by_default() -> None:
    module = ImageDataModule("digits")
    module.setup()
    assert module.train_dataloader().num_workers == 0


def test_setup_happens_once() -> None:
    module = ready("digits")
    source, facts = module.source, module.facts
    module.setup("test")
    assert module.source is source
    assert module.facts is facts


def test_facts_require_setup() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        _ = ImageDataModule("digits").facts


def test_hyperparameters_are_plain_data() -> None:
    module = ImageDataModule("digits", train_transforms=AUGMENTED, val_fraction=0.2)
    plain = yaml.safe_load(yaml.safe_dump(dict(module.hparams)))
    assert plain["train_transforms"] == AUGMENTED
    again = ImageDataModule(**plain)
    assert again.hparams == module.hparams


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "digit"}, r'data\.source: no source is called "digit"\. Did you mean "digits"'),
        ({"source": {"name": "folder"}}, r'data\.source: the source "folder" needs the argument "root"'),
        ({"source": {"name": "folder", "rot": "x"}}, r'data\.source: .* no argument "rot"\. Did you mean "root"'),
        ({"source": {"name": "folder", "root": 3}}, r"data\.source\.root: expected str, got 3"),
        ({"train_transforms": ["hflp"]}, r'data\.train_transforms\[0\]: .*Did you mean "hflip"'),
        ({"eval_transforms": "center_corp"}, r'data\.eval_transforms: .*Did you mean "center_crop"'),
        ({"image_size": 0}, r"data\.image_size: expected int > 0 \| None, got 0"),
        ({"batch_size": 0}, r"data\.batch_size: expected int > 0"),
        ({"eval_batch_size": -2}, r"data\.eval_batch_size: expected int > 0"),
        ({"channels": 4}, r"data\.channels: expected Literal\[1, 3\], got 4"),
        ({"val_fraction": 0.0}, r"data\.val_fraction: expected float in \(0, 1\), got 0"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, r"add up to less than 1"),
        ({"num_workers": -1}, r"data\.num_workers: expected int >= 0"),
        ({"on_bad_image": "ignore"}, r"data\.on_bad_image: expected Literal\['skip', 'error'\]"),
    ],
)
def test_wrong_arguments_are_rejected_by_the_constructor(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDataModule(**{"source": "digits", **arguments})


def test_wrong_data_is_rejected_by_setup_with_its_place(classes: Writer) -> None:
    with pytest.raises(SpecError, match=r"data\.source: data folder not found"):
        ready({"name": "folder", "root": "nowhere/at/all"})
    with pytest.raises(SpecError, match=r"data\.source: .*one only: a"):
        ready(folder(classes({"a": 5})))
    with pytest.raises(UserError, match=r'data\.source: too few images .* the class "tiny" \(2\)'):
        ready(folder(classes({"b": 5, "tiny": 2}, root="other")))


def test_a_missing_test_split_raises_with_a_hint(classes: Writer) -> None:
    with pytest.raises(UserError, match=r"expected a test split, got none. Hint: set data\.test_fraction above 0"):
        ready("digits", test_fraction=0.0).test_dataloader()
    with pytest.raises(UserError, match=r"got none\. Hint: add a test split to the source"):
        ready(folder(classes({"train/a": 9, "train/b": 9}))).predict_dataloader()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_ends_in_the_wrong_size_is_named_from_any_process(
    classes: Writer, write_image: Writer, workers: int
) -> None:
    root = classes({"train/a": 8, "train/b": 8, "val/a": 1, "val/b": 1})
    write_image(root / "val" / "b" / "000.png", size=(12, 30))
    module = ready(folder(root), num_workers=workers, eval_transforms=["resize"])
    with pytest.raises(UserError) as error:
        list(module.val_dataloader())
    assert str(error.value).startswith("data.eval_transforms: expected a result of 12 x 12 pixels, got 12 x 30")
    assert str(error.value).endswith("The image: val/b/000.png.")


def test_the_fingerprint_is_the_sources() -> None:
    assert ready("digits").fingerprint == ready("digits", split_seed=3, batch_size=2).fingerprint


def test_a_small_training_split_keeps_its_only_batch(classes: Writer) -> None:
    module = ready(folder(classes({"a": 10, "b": 10})), batch_size=64)
    assert [len(b) for b in epoch(module)] == [16]


def test_sign_digits(real_data: Path) -> None:
    size = 100
    module = ready(
        folder(real_data / "sign-digits"), image_size=size, batch_size=16, train_transforms=["random_resized_crop"]
    )
    batch = next(iter(module.train_dataloader()))
    assert batch.images.shape == (16, 3, size, size)
    assert module.split_sizes() == split_source(module.source).sizes()
