"""The predictor: drift of old predictions, training filters, modes, ranks and the forecast."""
