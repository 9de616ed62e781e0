"""The W&B logger: run, media, artifacts, files."""
