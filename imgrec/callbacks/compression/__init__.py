"""Compression callbacks: pruning, structured pruning, quantization-aware training, lottery tickets."""
