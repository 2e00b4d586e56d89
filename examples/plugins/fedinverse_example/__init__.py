"""An attack and a defence as somebody outside the repository writes them."""
