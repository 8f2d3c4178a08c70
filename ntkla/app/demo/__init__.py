"""The demo: real data, forecasts, real training, and the two side by side."""
