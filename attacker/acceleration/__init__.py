"""Other ways to compute the same gradient steps, each checked against the plain one before it is used."""
