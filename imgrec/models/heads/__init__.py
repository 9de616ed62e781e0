"""Heads: from pooled features to logits."""
