"""Base class and registry of the file formats that a classifier is exported to. Importing it imports no torch."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.utils.optional import require

if TYPE_CHECKING:
    from imgrec.compress.quantization.calibration import Images
    from imgrec.compress.quantization.quantizer import Quantizer
    from imgrec.models import Classifier
    from imgrec.types import DataFacts


class Format(ABC):
    """File format of exported networks.

    A subclass declares its files and precisions in class attributes and converts an ONNX file. It is registered with
    ``@FORMATS.register("name")`` or as an entry point of the group ``imgrec.formats``. The runtimes that open it are
    those of :data:`imgrec.RUNTIMES` with its suffix among their ``suffixes``.
    """

    files: ClassVar[tuple[str, ...]]
    """Names of the files in the folder of an export. The first one is the network that a runtime opens."""
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    """Floating-point precisions that it can store."""
    quantization: ClassVar[tuple[str, ...]] = ()
    """Methods of int8 quantization after training, the default first. Empty if it has none."""
    packages: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Modules that the conversion requires, each with the extra that installs it."""
    quantization_packages: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Further modules that the quantization requires, each with its extra."""

    @property
    def suffix(self) -> str:
        """Suffix of the network file, for example ``.onnx``."""
        return Path(self.files[0]).suffix

    @property
    def all_precisions(self) -> tuple[str, ...]:
        """Precisions that ``imgrec compress --quantize`` accepts, from the lowest."""
        return (*(("int8",) if self.quantization else ()), *reversed(self.precisions))

    @abstractmethod
    def convert(self, source: Path, target: Path, precision: str = "fp32") -> Path:
        """Convert an ONNX file in float32.

        Args:
            source: File ``.onnx``, written by :func:`imgrec.export.onnx_writer.write_onnx`.
            target: Network file to write, in an existing folder. Weight files are written to the same folder.
            precision: One of :attr:`precisions`. Defaults to ``fp32``.

        Raises:
            UserError: If a package is missing or the network cannot be converted.
        """

    def write(self, classifier: Classifier, facts: DataFacts, target: Path, precision: str = "fp32") -> Path:
        """Write a classifier. The default implementation writes an ONNX file and converts it."""
        from imgrec.export.onnx_writer import write_onnx

        with tempfile.TemporaryDirectory() as folder:
            return self.convert(write_onnx(classifier, facts, Path(folder) / "source.onnx"), target, precision)

    def embed(self, file: Path, values: dict[str, str]) -> None:  # noqa: B027 - optional
        """Store text entries in a network file. The default implementation stores none.

        Args:
            file: Network file, changed in place.
            values: Text by name. Existing entries of imgrec are replaced.
        """

    def quantizer(self, source: Path, images: Images, method: str, ranges: str, biases: str) -> Quantizer:
        """Return the quantizer of an ONNX file.

        Args:
            source: File ``.onnx`` in float32.
            images: Calibration images, ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].
            method: One of :attr:`quantization`.
            ranges: Method that estimates the range of activations, if the format has a choice.
            biases: Method of bias correction, if the format has a choice.

        Raises:
            UserError: If the format has no quantization.
        """
        raise UserError(f"to: expected {' or '.join(self.precisions)}, got int8. {type(self).__name__} has no int8.")

    def weight_files(self, file: Path) -> list[Path]:
        """Return the paths at which the weights of a network file can be, if they are in separate files."""
        return [file.with_name(f"{file.stem}{Path(name).suffix}") for name in self.files[1:]]

    def require(self) -> None:
        """Raise if a package that the conversion requires is not installed.

        Raises:
            UserError: If it is not. The message names the extra.
        """
        for module, extra in self.packages:
            require(module, extra, f"export to {self.suffix}")


FORMATS: Registry[Format] = Registry("format", "formats")
"""Export formats by name. ``imgrec list formats`` prints them."""
