"""The softmax head under cross-entropy: its targets, its certified optimum, and the forecast of it."""
