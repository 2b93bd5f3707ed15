"""Base models: embeddings and positions in, hidden states and logits out. They never see a tree."""
