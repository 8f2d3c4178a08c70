"""ntkla: forecasts what training on a new task does to every prediction on the old one, and proves how exact it is."""

__version__ = "0.1.0"
