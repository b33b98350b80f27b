"""What the command line asks for, as functions that other programs can call too."""
