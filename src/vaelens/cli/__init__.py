"""The command line: the table of commands, the options they share, and what is printed."""
