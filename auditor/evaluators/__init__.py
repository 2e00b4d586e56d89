"""What judges a reconstruction: a classifier (E1), a task-free embedding (E2), and what makes them independent."""
