"""The cache of decoded images on disk: plan, build, storage, limit and locks."""
