"""Many tasks, one after another: the head, what is remembered of each, and the forecast of a whole curriculum."""
