"""The commands: one file each. They parse, call and print, and compute nothing."""
