"""The exceptions that users see: one line each, saying what was wrong, what was found and what to do."""


class HipExtError(Exception):
    """Base of every error that hip_ext raises on purpose; its message is one line."""


class StructureError(HipExtError, ValueError):
    """A structure cannot be used: empty, not finite, overlapping atoms, impossible charge, ..."""


class BackboneError(HipExtError, ValueError):
    """A backbone is unknown, cannot be loaded, or does not support what was asked of it."""


class MissingDependencyError(HipExtError, ImportError):
    """A framework is not installed; the message says which extra installs it."""


class CheckpointError(HipExtError, ValueError):
    """A checkpoint is missing, truncated, tampered with, or made for another backbone."""


class HubError(CheckpointError):
    """A repository on the Hugging Face Hub cannot be found, read or written."""


class ConfigError(HipExtError, ValueError):
    """A configuration has an unknown key or a value out of range."""


class DataError(HipExtError, ValueError):
    """A label file or data set cannot be read, or does not fit what is asked of it."""


class CutShortError(DataError):
    """A label file can be read up to some place and no further: how much is lost is not known."""


def reason_of(error: Exception) -> str:
    """One line on an exception of anybody: the message of ours, and the name and the first line of all others."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
    kind = "" if isinstance(error, HipExtError) and reason else f"{type(error).__name__}: "
    return f"{kind}{reason}"
