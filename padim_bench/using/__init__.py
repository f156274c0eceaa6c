"""What people do with a model of their own images: fit it to a folder, and look at others with it."""
