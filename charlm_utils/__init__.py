"""charlm_utils: the small package behind the book *Character by Character*.

Character-level language models in PyTorch: corpora with checksums, a vocabulary,
batches, models, one training loop, sampling, and the count tables that every
loss is measured against. Losses are in nats per character throughout.
"""

__version__ = "0.1.0"
