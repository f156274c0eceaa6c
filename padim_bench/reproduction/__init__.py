"""From the specs of the paper's tables to runs, and from what those leave to pages beside the paper's numbers."""
