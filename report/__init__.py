"""Everything a person looks at: the run page, the comparison page, console tables and pictures."""
