"""The command line, the demo, its data and its pictures: the only floor with files, plots and arguments."""
