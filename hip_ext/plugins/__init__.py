"""What lives inside a framework's own machinery: its trainers, registries and file formats."""
