"""Galleries: the test images of a category as a page to look at, with their masks and their heat maps."""
