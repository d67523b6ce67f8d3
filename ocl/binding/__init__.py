"""IsSameObject: which patches of an image a vision transformer takes to be one object."""
