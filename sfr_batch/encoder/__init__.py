"""Texts or token ids to unit vectors on one device. The only package that imports torch; knows no Ray, no storage."""

from sfr_batch.encoder.canaries import Canaries
from sfr_batch.encoder.encoder import EncodedTokens, Encoder

__all__ = ["Canaries", "EncodedTokens", "Encoder"]
