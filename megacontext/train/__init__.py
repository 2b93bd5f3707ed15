"""Training: contexts made from books, objectives, stages, and the recipe that chains them."""
