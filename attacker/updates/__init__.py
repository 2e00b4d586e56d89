"""Update inversion: what the difference of two consecutive captures tells of the others' last batches."""
