"""Leading eigenpairs: the direct way, Lanczos, and what is proved of either."""
