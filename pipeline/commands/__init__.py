"""Commands that need no run directory, no Ray and no Flower: attack a weights file, train a prior, prepare data."""
