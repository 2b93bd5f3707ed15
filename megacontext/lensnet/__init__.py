"""LensNet: which entries of a working context deserve more detail, given what is being asked."""
