"""Token ids to unit vectors on one device. The only package that imports torch and transformers.

`batching` decides which rows are computed together and in which order, `forward` computes one batch, and `encoder`
answers for all rows of a call.
"""
