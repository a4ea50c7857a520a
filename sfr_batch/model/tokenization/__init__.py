"""Text to token ids: the tokenizer of a model folder, as the files beside tokenizer.json change it, and chunks."""
