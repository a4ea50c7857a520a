"""A model without torch.

`location` finds its folder, `recipe` reads how its vectors are made, `tokenizer` makes token ids, `weight_hashes` says
which weights it has, and `identity` lists what changes a fingerprint.
"""
