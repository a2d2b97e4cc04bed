"""Teaching a head: labels from the backbone itself, cached features, and a plain training loop."""
