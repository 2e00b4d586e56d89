"""The clients: local training, the same for everyone, and the defences a cohort may train with."""
