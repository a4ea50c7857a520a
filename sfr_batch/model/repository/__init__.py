"""What the files of a model repository say: known keys and values, and everything else refused by name."""
