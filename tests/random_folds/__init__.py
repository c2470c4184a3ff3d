"""Random graphs for folding: `growth` draws them, `examine` says what must hold; the command is in `__main__`."""
