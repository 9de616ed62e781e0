"""Decoding of image files to uint8 tensors, with limits on pixels and memory."""
