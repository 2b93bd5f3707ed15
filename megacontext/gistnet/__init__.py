"""GistNet: what stands for a block. A gist is its content for the model, an address its handle for retrieval."""
