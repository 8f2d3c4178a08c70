"""What a command finds: computed, told on a terminal, and written as JSON."""
