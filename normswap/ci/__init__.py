"""Reports for CI: what a command found, as the files that CI systems read."""
