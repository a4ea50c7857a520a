"""A model without torch.

`sources` finds its files and says which weights they are, `repository` reads what the files say, and `recipe` puts
together how vectors are made. `tokenization` makes token ids, and `identity` lists what changes a fingerprint.
"""
