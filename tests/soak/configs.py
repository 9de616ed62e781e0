"""Configs of the soak tests: small runs that together cover all components. A new config is one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imgrec.engine.config import merge, normal_form

NETWORK = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}

PLAIN: dict[str, Any] = {
    "model": {
        "backbone": NETWORK,
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": {"name": "cosine", "warmup": 0.1},
        "normalize": "half",
    },
    "data": {"source": "digits", "channels": 1, "batch_size": 16, "eval_batch_size": 64, "num_workers": 0},
    "trainer": {
        "max_epochs": 3,
        "limit_train_batches": 7,
        "log_every_n_steps": 2,
        "enable_progress_bar": False,
        "precision": "32-true",
        "callbacks": [{"class_path": "LastCheckpoint", "every_steps": 3, "keep": 2}],
    },
}

EVERYTHING: dict[str, Any] = {
    "model": {
        "backbone": {**NETWORK, "drop_path_rate": 0.1},
        "head": {"name": "linear", "dropout": 0.2},
        "loss": [
            {"name": "focal", "weight": 0.5},
            {"name": "cross_entropy", "label_smoothing": 0.1, "weight": 0.5},
        ],
        "regularizers": [{"name": "l2", "weight": 1e-4, "ramp": [0, 0.5]}, {"name": "l1", "weight": 1e-5}],
        "optimizer": {"name": "nesterov", "lr": 0.1, "weight_decay": 5e-4},
    },
    "data": {
        "train_transforms": ["trivialaugment", {"name": "random_crop", "padding": 1}, "cutout", "mixup_or_cutmix"],
        "sampler": {"name": "class_aware", "temperature": 0.5},
    },
    "trainer": {
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1.0,
        "callbacks+": [
            {"class_path": "EMA", "decay": 0.9},
            {"class_path": "EarlyStopping", "monitor": "val/loss", "patience": 8},
            {"class_path": "AugmentationStrength", "init_args": {"start": 0.5}},
            "NaNGuard",
        ],
    },
}

NECKED: dict[str, Any] = {
    "model": {
        "neck": {"name": "bifpn", "channels": 8},
        "pooling": "gem",
        "head": {"name": "multi_sample_dropout", "samples": 3},
    }
}


@dataclass(frozen=True)
class Soak:
    """Config with its number of processes and its share of kills in a round of the matrix."""

    config: dict[str, Any]
    processes: int = 1
    share: int = 1
    teacher: dict[str, Any] | None = None
    """Config of the teacher, which is trained first and linked as ``teacher``."""


def made(*parts: dict[str, Any]) -> dict[str, Any]:
    """Return the plain config merged with further ones."""
    config = normal_form(PLAIN)
    for part in parts:
        config = merge(config, normal_form(part))
    return config


def trainer(**values: Any) -> dict[str, Any]:
    """Return a config with trainer arguments."""
    return {"trainer": values}


PRUNED: dict[str, Any] = {
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {
        "callbacks+": [
            {"class_path": "Pruning", "init_args": {"sparsity": 0.8, "every_n_steps": 2}},
            {"class_path": "EMA", "init_args": {"decay": 0.9}},
        ]
    },
}

TAYLOR = {"class_path": "Pruning", "init_args": {"criterion": "taylor", "score_steps": 2, "rewind_to": 0.1}}

NARROWER: dict[str, Any] = {
    "model": {"regularizers": {"name": "group_norm", "weight": 1e-3, "ramp": [0, 0.2]}},
    "trainer": {
        "accumulate_grad_batches": 2,
        "callbacks+": [
            {
                "class_path": "StructuredPruning",
                "init_args": {"target": {"macs": 0.6}, "importance": "taylor", "start": 0.3, "end": 0.7, "rounds": 2},
            },
            {"class_path": "EMA", "init_args": {"decay": 0.9}},
            "NaNGuard",
        ],
    },
}

TAUGHT: dict[str, Any] = {
    "model": {
        "class_path": "imgrec.DistillationTask",
        "init_args": {
            "teacher": "teacher",
            "distillation": [
                {"name": "logits", "weight": 0.5},
                {"name": "attention", "layers": {"layer1": "layer1"}, "weight": 100.0},
            ],
        },
    }
}
HINTS = {"model": {"init_args": {"distillation": ["hard", "features"]}}}

INT8: dict[str, Any] = {
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {
        "accumulate_grad_batches": 2,
        "callbacks+": [
            {"class_path": "Pruning", "init_args": {"sparsity": 0.8, "every_n_steps": 2}},
            {"class_path": "QAT", "init_args": {"start": 0.4, "freeze_observers": 0.7, "freeze_batchnorm": 0.8}},
            {"class_path": "EMA", "init_args": {"decay": 0.9}},
            "NaNGuard",
        ],
    },
}

THAWING: dict[str, Any] = {
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {
        "accumulate_grad_batches": 2,
        "callbacks+": [
            {"class_path": "Freeze", "init_args": {"scope": ["conv1", "bn1"]}},
            {"class_path": "GradualUnfreezing", "init_args": {"start": 0.2, "end": 0.8, "batch_norm": "statistics"}},
            {"class_path": "EMA", "init_args": {"decay": 0.9}},
            "NaNGuard",
        ],
    },
}

LATE_MOMENTUM: dict[str, Any] = {
    "model": {"optimizer": {"name": "nesterov", "lr": 0.05, "weight_decay": 5e-4}},
    "trainer": {
        "min_epochs": 2,
        "callbacks+": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1}}],
    },
}

LEARNED: dict[str, Any] = {
    "model": {
        "head": "cosine",
        "loss": [
            {"name": "arcface", "margin": 0.2, "weight": "learned"},
            {"name": "brier", "weight": "learned"},
            {"name": "symmetric_cross_entropy", "weight": 0.5},
        ],
    },
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {
        "accumulate_grad_batches": 2,
        "callbacks+": [{"class_path": "EMA", "init_args": {"decay": 0.9}}, "NaNGuard"],
    },
}

NESTEROV = {"name": "nesterov", "lr": 0.1, "weight_decay": 5e-4, "groups": [{"scope": "head", "lr_factor": 2.0}]}
SHARP = {"model": {"optimizer": {"name": "asam", "rho": 0.2, "base": NESTEROV}}}

SLOW: dict[str, Any] = {
    "model": {
        "optimizer": {"name": "lookahead", "every": 4, "base": {"name": "adamw", "lr": 0.01}},
        "schedule": {"name": "plateau", "patience": 0, "gamma": 0.5, "warmup": 0.1},
    },
    "trainer": {
        "val_check_interval": 3,
        "callbacks+": [
            {"class_path": "Pruning", "init_args": {"sparsity": 0.8, "every_n_steps": 2}},
            "AdaptiveClipping",
            "NaNGuard",
        ],
    },
}

FREE: dict[str, Any] = {
    "model": {
        "optimizer": {"name": "schedule_free_adamw", "lr": 0.01, "weight_decay": 0.01},
        "schedule": {"name": "constant", "warmup": 0.1},
    },
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0},
}

LOW_RANK: dict[str, Any] = {
    "model": {"edits": {"name": "lora", "rank": 4, "scope": "layer*"}},
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {
        "accumulate_grad_batches": 2,
        "callbacks+": [{"class_path": "EMA", "init_args": {"decay": 0.9}}, "NaNGuard"],
    },
}

PENALIZED: dict[str, Any] = {
    "model": {
        "head": {"name": "linear", "dropout": 0.2},
        "edits": {"name": "weight_norm", "scope": "layer1"},
        "regularizers": [
            {"name": "center", "weight": 0.01, "ramp": [0, 0.3]},
            {"name": "supervised_contrastive", "weight": 0.1, "projection": 4},
            {"name": "r_drop", "weight": 0.5},
            {"name": "jensen_shannon", "weight": 1.0, "ramp": [0.3, 0.6]},
            {"name": "pgd", "weight": 0.5, "steps": 2},
            {"name": "virtual_adversarial", "weight": 0.5},
            {"name": "jacobian", "weight": 0.01},
            {"name": "spectral_norm", "weight": 0.01, "scope": "head"},
        ],
    },
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {
        "accumulate_grad_batches": 2,
        "callbacks+": [
            {"class_path": "EMA", "init_args": {"decay": 0.9}},
            {"class_path": "MaxNorm", "init_args": {"limit": 1.0, "scope": "head"}},
        ],
    },
}

EDITED: dict[str, Any] = {
    "model": {
        "edits": [
            "se",
            {"name": "swap_activation", "to": "silu"},
            {"name": "swap_norm", "to": "group", "scope": "layer[12]"},
            {"name": "dropblock", "size": 3, "scope": "layer1"},
            {"name": "spatial_dropout", "scope": "layer2"},
            {"name": "stochastic_depth", "rate": 0.2, "scope": "layer[34]"},
        ],
        "init": [{"name": "he_normal", "mode": "fan_out"}, "zero_residual"],
    },
    "data": {"train_transforms": ["cutout", "mixup"]},
    "trainer": {"callbacks+": [{"class_path": "EMA", "init_args": {"decay": 0.9}}]},
}

DDP = trainer(strategy="ddp", devices=2, accelerator="cpu")
WORKERS = {"data": {"num_workers": 2}}

SOAKS: dict[str, Soak] = {
    "plain": Soak(made()),
    "everything": Soak(made(EVERYTHING), share=3),
    "everything, 2 workers": Soak(made(EVERYTHING, WORKERS), share=2),
    "everything, bf16-mixed": Soak(made(EVERYTHING, trainer(precision="bf16-mixed")), share=2),
    "everything, 2 processes": Soak(made(EVERYTHING, DDP), processes=2, share=2),
    "everything, 2 processes, bf16": Soak(made(EVERYTHING, DDP, trainer(precision="bf16-mixed")), processes=2),
    "pruned, EMA, mixup": Soak(made(PRUNED), share=2),
    "pruned by taylor, accumulated, clipped": Soak(
        made({"trainer": {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0, "callbacks+": [TAYLOR]}}), share=2
    ),
    "quantization-aware, masks, EMA, mixup": Soak(made(INT8), share=2),
    "channels taken out, EMA, accumulated": Soak(made(NARROWER), share=2),
    "channels taken out, EMA, 2 processes": Soak(made(NARROWER, DDP), processes=2),
    "distilled, everything else": Soak(made(EVERYTHING, TAUGHT, HINTS), share=2, teacher=made()),
    "distilled, 2 processes": Soak(made(EVERYTHING, TAUGHT, HINTS, DDP), processes=2, teacher=made()),
    "distilled, channels taken out, EMA": Soak(made(NARROWER, TAUGHT), teacher=made()),
    "thawing by stages, EMA, mixup": Soak(made(THAWING), share=2),
    "thawing by stages, 2 processes": Soak(made(THAWING, DDP), processes=2),
    "thawing by stages, momentum, shortest training": Soak(made(THAWING, LATE_MOMENTUM)),
    "learned weights of losses, margin, EMA": Soak(made(LEARNED)),
    "learned weights of losses, 2 processes": Soak(made(LEARNED, DDP), processes=2),
    "sharpness-aware, everything else": Soak(made(EVERYTHING, SHARP), share=2),
    "sharpness-aware, 2 processes, bf16": Soak(
        made(EVERYTHING, SHARP, DDP, trainer(precision="bf16-mixed")), processes=2
    ),
    "slow weights, plateau, masks, clipped by unit": Soak(made(SLOW), share=2),
    "schedule-free, accumulated, clipped, mixup": Soak(made(FREE), share=2),
    "changes of low rank, EMA, mixup": Soak(made(LOW_RANK)),
    "penalized, centres, two views, attacks": Soak(made(PENALIZED)),
    "penalized, 2 processes, bf16": Soak(
        made(PENALIZED, DDP, trainer(precision="bf16-mixed", max_epochs=2)), processes=2
    ),
    "maps fused and pooled, several dropout masks": Soak(made(EVERYTHING, NECKED)),
    "edited, dropped in three ways, EMA, mixup": Soak(made(EDITED)),
    "validation within epochs": Soak(made(trainer(val_check_interval=3)), share=2),
    "by steps": Soak(made(trainer(max_steps=17, max_epochs=-1)), share=2),
    "Lightning's callbacks": Soak(
        made(
            trainer(
                callbacks=[
                    {"class_path": "LastCheckpoint", "every_steps": 2},
                    {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}},
                    {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 4, "save_top_k": -1}},
                    {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {1: 2}}},
                ]
            )
        ),
        share=2,
    ),
    "by default": Soak(made(trainer(callbacks=[], limit_train_batches=4)), share=2),
    "several epochs between validations": Soak(made(trainer(check_val_every_n_epoch=2, max_epochs=4))),
}
