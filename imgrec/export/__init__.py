"""Model folders, export formats, runtimes, and the predictor for image files.

Each name is loaded when it is first used, so that reading an ONNX file imports no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
