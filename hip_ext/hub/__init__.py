"""Checkpoints on the Hugging Face Hub, through huggingface_hub's own client and cache.

names      what may name a repository and a revision
download   the files of a checkpoint, and no others, into the Hub's cache
upload     a checkpoint to a repository
problems   the client's errors in one line that says what to do
"""

from hip_ext.hub.names import HubOptions, is_repository, repository_and_revision

__all__ = ["HubOptions", "is_repository", "repository_and_revision"]
