"""OpenVINO files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree

from imgrec.errors import UserError
from imgrec.export.formats.base import FORMATS, Format
from imgrec.utils.optional import require
from imgrec.utils.paths import write_text

if TYPE_CHECKING:
    from imgrec.compress.quantization.calibration import Images
    from imgrec.compress.quantization.quantizer import Quantizer


@FORMATS.register("openvino")
class OpenVinoFormat(Format):
    """OpenVINO IR ``model.xml`` with its weights ``model.bin``, for OpenVINO.

    Its precisions are ``fp32``, ``fp16``, ``bf16`` and ``int8``. ``fp16`` stores the weights in half the bytes and
    computes in float32. ``bf16`` also computes in bfloat16 and is fast on processors with bfloat16 instructions.
    Requires the extra ``openvino``.
    """

    files = ("model.xml", "model.bin")
    precisions = ("fp32", "fp16", "bf16")
    quantization = ("static",)
    packages = (("onnx", "export"), ("openvino", "openvino"))
    quantization_packages = (("nncf", "openvino"),)

    def convert(self, source: Path, target: Path, precision: str = "fp32") -> Path:
        """Convert an ONNX file, with weights in float16 unless ``precision`` is ``fp32``."""
        return to_openvino(source, target, half=precision != "fp32")

    def embed(self, file: Path, values: dict[str, str]) -> None:
        """Store entries in ``rt_info``, in the element ``imgrec``."""
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        info = root.find("rt_info")
        if info is None:
            info = ElementTree.SubElement(root, "rt_info")
        own = info.find("imgrec")
        if own is not None:
            info.remove(own)
        own = ElementTree.SubElement(info, "imgrec")
        for key, value in values.items():
            ElementTree.SubElement(own, key, {"value": value})
        write_text(file, '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n")

    def quantizer(self, source: Path, images: Images, method: str, ranges: str, biases: str) -> Quantizer:
        """Return the quantizer of NNCF."""
        from imgrec.compress.quantization.openvino import OpenVinoInt8

        return OpenVinoInt8(source, images, cast(Any, biases))


def to_openvino(source: Path, target: Path, half: bool = False) -> Path:
    """Convert an ONNX file to OpenVINO IR.

    Args:
        source: File ``.onnx``.
        target: File ``.xml``. Its weights are written to ``.bin`` in the same folder.
        half: If True, store the weights in float16. Defaults to False.

    Raises:
        UserError: If the package is missing or OpenVINO cannot convert the network.
    """
    openvino = require("openvino", "openvino", "OpenVINO export")
    try:
        network = openvino.convert_model(str(source))
    except RuntimeError as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1:]
        raise UserError(f"OpenVINO cannot convert the network: {' '.join(reason)[:300]}") from error
    openvino.save_model(network, str(target), compress_to_fp16=half)
    return target
