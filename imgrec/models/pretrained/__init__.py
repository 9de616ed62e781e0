"""Pretrained weights: loading, partial loading, resampling of position embeddings."""
