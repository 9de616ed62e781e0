"""Sources: labelled images from folders, tables, parquet files, tar shards, Hugging Face and torchvision."""
