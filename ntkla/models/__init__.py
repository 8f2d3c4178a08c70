"""What torch modules give: their features to a forecast, and their tangent kernel."""

from ntkla.models.extraction import Features, features

__all__ = ["Features", "features"]
