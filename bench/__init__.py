"""What it costs: the null tunnel, the generator, and the figures (`headrace bench`)."""
