"""Drawn stand-ins for data that nobody has at hand: images of four categories, and scenes with pedestrians."""
