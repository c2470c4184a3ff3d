"""Models in and out: opened without reading weights, written as they were in everything that was not rewritten."""

from normswap.model.envelope import Envelope, weightless
from normswap.model.export import to_kind, to_proto
from normswap.model.open import Document, Source, open_model
from normswap.model.save import save

__all__ = ["Document", "Envelope", "Source", "open_model", "save", "to_kind", "to_proto", "weightless"]
