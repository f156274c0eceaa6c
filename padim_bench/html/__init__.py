"""What all HTML pages of ours share: how they are rendered, their colours, and names of places in them."""
