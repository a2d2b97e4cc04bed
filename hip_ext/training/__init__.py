"""Teaching a head: labels, from stores or made from the backbone itself, cached features, and training."""
