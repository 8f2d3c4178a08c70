"""The certified optimum of a linear head under cross-entropy: softmax regression with a ridge."""
