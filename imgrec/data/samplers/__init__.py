"""Samplers: reproducible order, resumable position, class balance."""
