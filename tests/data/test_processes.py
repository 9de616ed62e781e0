"""Two real processes: together they process the images of a single one, for both values of Lightning's sampler flag."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from imgrec.data import ImageDataModule


class Seeing(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch.ids)
        return self.weight * batch.images.float().mean()

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.seen["val"] += batch.ids

    def test_step(self, batch, batch_idx):
        self.seen["test"] += batch.ids

    def predict_step(self, batch, batch_idx):
        self.seen["predict"] += batch.ids

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    out, flag = Path(sys.argv[1]), sys.argv[2] == "true"
    model = Seeing()
    data = ImageDataModule("digits", batch_size=100, val_fraction=0.101, num_workers=0, seed=0)
    options = dict(accelerator="cpu", devices=2, strategy="ddp", use_distributed_sampler=flag, logger=False,
                   enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    pl.Trainer(max_epochs=2, **options).fit(model, data)
    trainer = pl.Trainer(**options)
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data, return_predictions=False)
    sizes = data.split_sizes()
    (out / f"{trainer.global_rank}.json").write_text(json.dumps({"seen": model.seen, "sizes": sizes}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["true", "false"])
def test_two_processes_see_every_image_once(tmp_path: Path, flag: str) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path), flag], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    sizes = ranks[0]["sizes"]
    for split, whole in (("val", "val"), ("test", "test"), ("predict", "test")):
        names = [name for rank in ranks for name in rank["seen"][split]]
        times = 2 if split == "val" else 1  # once in each of two epochs
        assert len(names) == times * sizes[whole]
        assert len(set(names)) == sizes[whole]
    for epoch in range(2):
        steps = sizes["train"] // 2 // 100
        batches = [rank["seen"]["train"][epoch * steps : (epoch + 1) * steps] for rank in ranks]
        together = [name for rank in batches for batch in rank for name in batch]
        assert len(together) == len(set(together)) == 2 * steps * 100
    assert ranks[0]["seen"]["train"][0] != ranks[0]["seen"]["train"][steps]
