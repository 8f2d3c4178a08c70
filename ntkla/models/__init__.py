"""What torch modules give to a forecast: their features."""

from ntkla.models.extraction import Features, features

__all__ = ["Features", "features"]
