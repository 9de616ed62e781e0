"""Searches before a training: learning rate, batch size, precision and memory format."""
