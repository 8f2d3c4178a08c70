"""The page of a forecast and the picture of a spectrum."""
