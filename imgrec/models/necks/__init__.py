"""Necks: from feature maps of several stages to one feature vector."""
