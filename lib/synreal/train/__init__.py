"""One training loop and the zoo made with it."""
