"""The inversion attacks, one file each, named as their papers name them; and the contract that they keep."""
