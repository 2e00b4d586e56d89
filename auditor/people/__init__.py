"""People as judges: what they are shown, what their answers say, and how far they and the evaluators agree."""
