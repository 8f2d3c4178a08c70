"""Tasks and heads in a user's files: mapped, checked, never unpickled."""
