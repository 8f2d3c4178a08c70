"""What each way of protecting old tasks would cost the new one, without training anything."""
