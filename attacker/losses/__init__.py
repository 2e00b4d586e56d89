"""What an inversion minimises: identity losses, views, students, diversity."""
