"""What can go wrong, by what follows from it (exit statuses: the README's table)."""


class AvtoolsError(Exception):
    """A failure whose message is one clear line: what, which file or row, and the remedy."""


class UsageError(AvtoolsError):
    """Wrong usage, or a table that cannot be read: the command ends with status 2."""


class RowError(AvtoolsError):
    """One row is bad; its neighbours are still processed (status 1 unless ``--on-error`` says otherwise)."""


class MediaError(RowError):
    """A media file cannot be read, or lacks what the operation needs."""


class SuffixRefused(MediaError):
    """A container cannot hold what was asked for; another suffix may."""


class FatalError(AvtoolsError):
    """Nothing further is possible (disk full, output not writable, weights missing): status 3."""
