"""What is measured of reconstructions, a file per family."""
