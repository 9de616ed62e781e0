"""The compression study: pruned and quantized variants of a run under an accuracy budget."""
