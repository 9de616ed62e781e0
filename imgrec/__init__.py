"""imgrec: a research framework for image recognition on PyTorch Lightning."""
