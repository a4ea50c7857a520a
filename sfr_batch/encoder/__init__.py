"""Token ids to unit vectors on one device. The only package that imports torch and transformers."""
