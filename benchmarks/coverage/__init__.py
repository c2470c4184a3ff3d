"""What recognizes normalizations: several hundred generated graphs through several tools."""
