"""A model folder without torch: its recipe, weights, prompts and tokenizer."""
