"""Quantization: post-training int8, quantization-aware training, sensitivity."""
