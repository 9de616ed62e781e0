"""Backbones: timm, torchvision and small networks for small images."""
