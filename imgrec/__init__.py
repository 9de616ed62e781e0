"""imgrec: a research framework for image recognition on PyTorch Lightning.

Public names, each loaded when it is first used (``__init__.pyi`` lists them)::

    import imgrec
    run = imgrec.fit("experiments/digits/quickstart.yaml")
    imgrec.predict(run, ["a.png", "b.png"])
"""

import os

import lazy_loader

# Linux gives large tensors of torch huge pages on request. On a CPU, photographs are normalized 2.7 times as fast and
# EfficientNet-Lite0 trains 1.1 times as fast, with bit-equal results (benchmarks/huge_pages.py). torch reads this once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
