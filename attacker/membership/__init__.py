"""Membership from a participant's seat: was this record used for training? Scores from captured models alone."""
