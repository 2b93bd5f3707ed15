"""Gist tokens: the base goes on learning the next token, with blocks folded into gists of its own."""
