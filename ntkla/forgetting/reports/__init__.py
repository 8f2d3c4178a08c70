"""What is told of a task: predictions, flips, classes, samples, and what training really did."""
