"""Monitoring callbacks: progress, images, layer statistics, system metrics."""
