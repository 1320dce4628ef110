"""The documentation: its pages, and the code that writes the parts which follow from the program."""
