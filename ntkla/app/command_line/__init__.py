"""The commands and options as typed, and what they are turned into."""
