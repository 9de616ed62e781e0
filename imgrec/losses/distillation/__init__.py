"""Distillation losses on logits and on features."""
