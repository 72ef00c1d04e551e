"""What is measured: extractors, distances between distributions, reconstruction errors, rates, intervals."""
