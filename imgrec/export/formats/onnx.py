"""ONNX files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from imgrec.export.formats.base import FORMATS, Format
from imgrec.utils.optional import require
from imgrec.utils.paths import written_aside

if TYPE_CHECKING:
    from imgrec.compress.quantization.calibration import Images
    from imgrec.compress.quantization.quantizer import Quantizer


@FORMATS.register("onnx")
class OnnxFormat(Format):
    """ONNX file ``model.onnx``, for ONNX Runtime and OpenVINO.

    Its precisions are ``fp32``, ``fp16`` and ``int8``. ``fp16`` stores the weights in half the bytes and computes in
    float32. Its methods of quantization are ``static``, which is calibrated, and ``dynamic`` and ``weights`` for
    transformers. Requires the extra ``export``.
    """

    files = ("model.onnx",)
    precisions = ("fp32", "fp16")
    quantization = ("static", "dynamic", "weights")
    packages = (("onnx", "export"), ("onnxscript", "export"))

    def convert(self, source: Path, target: Path, precision: str = "fp32") -> Path:
        """Copy an ONNX file, with weights in float16 if ``precision`` is ``fp16``."""
        from imgrec.compress.quantization.onnx_weight_only import half_weights

        shutil.copyfile(source, target)
        if precision == "fp16":
            half_weights(target)
        return target

    def embed(self, file: Path, values: dict[str, str]) -> None:
        """Store entries in ``metadata_props``, with the prefix ``imgrec.``."""
        onnx = require("onnx", "export", "ONNX export")
        model = onnx.load(str(file))
        kept = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith("imgrec.")}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, kept | {f"imgrec.{key}": value for key, value in values.items()})
        with written_aside(file) as aside:
            onnx.save(model, str(aside))

    def quantizer(self, source: Path, images: Images, method: str, ranges: str, biases: str) -> Quantizer:
        """Return the quantizer of a method for ONNX Runtime."""
        from imgrec.compress.quantization.onnx_static import OnnxInt8
        from imgrec.compress.quantization.onnx_weight_only import OnnxProducts

        if method == "static":
            return OnnxInt8(source, images, cast(Any, ranges))
        return OnnxProducts(source, cast(Literal["dynamic", "weights"], method))

    def weight_files(self, file: Path) -> list[Path]:
        """Return the names of external data that the exporters of PyTorch and ONNX use."""
        return [file.with_name(f"{file.name}.data"), file.with_name(f"{file.name}_data")]
